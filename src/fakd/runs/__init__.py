"""Folders of runs: their files, and how these are named, written and read."""
