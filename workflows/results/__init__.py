"""What a run says of itself, and what it writes beside the map."""
