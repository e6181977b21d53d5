"""Runs cut into blocks along time: sealed, resumed, spread over a cluster, merged (knows no command line)."""
