"""What a typed command loads: the command line, and the commands for people and pipelines."""
