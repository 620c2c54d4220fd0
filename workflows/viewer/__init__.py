"""A map in the browser."""
