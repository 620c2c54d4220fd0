"""What is held to be true of pixels: labels to learn from, and to compare a map with."""
