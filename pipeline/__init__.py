"""Rasters, tiles, storage and execution: everything about a map except the network."""
