"""The command line. Needs the `cli` extra."""
