"""The command line: arguments, commands and exit status. Commands import heavy libraries only when they run."""
