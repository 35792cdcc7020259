"""Folders of runs: what lies in them, how it is named, written and read."""
