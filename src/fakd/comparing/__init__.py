"""Grids of runs: getting them done, and what they say about methods."""
