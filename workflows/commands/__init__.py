"""One module a command: its options, one call, and what it prints for people."""
