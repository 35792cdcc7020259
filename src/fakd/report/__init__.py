"""What a finished run shows: tables, pictures, curves."""
