"""The same network in other tools, each in a process of its own."""
