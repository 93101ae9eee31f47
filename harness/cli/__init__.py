"""The command line, `bench`: a module for each group of commands."""
