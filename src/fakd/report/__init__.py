"""Reports on finished runs: tables, pictures, curves."""
