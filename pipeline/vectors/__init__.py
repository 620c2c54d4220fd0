"""Polygons: those of a map, and those that say which part of a scene is meant."""
