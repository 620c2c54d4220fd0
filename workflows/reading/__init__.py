"""Which scenes are meant, and how each is read."""
