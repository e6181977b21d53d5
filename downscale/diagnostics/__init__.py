"""Judging numbers of anybody's making: conservation validators and their report."""
