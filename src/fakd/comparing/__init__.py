"""Grids of runs: their execution, and verdicts on methods."""
