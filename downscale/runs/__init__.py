"""Runs in blocks along time: checked, resumable, on one machine or a cluster, merged."""
