"""Signals, threads, memory buffers and the progress bar of this process."""
