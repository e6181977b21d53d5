"""The version, alone in its file so that building and importing read one place."""

__version__ = "0.1.0"
