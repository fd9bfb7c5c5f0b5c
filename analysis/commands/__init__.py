"""One module a command: what it takes, does and prints."""
