"""Losses and penalties on fields."""
