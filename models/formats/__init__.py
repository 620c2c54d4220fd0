"""Networks that come from elsewhere, and networks kept as data."""
