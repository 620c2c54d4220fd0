"""The networks that can be built by name, and what they are made of."""
