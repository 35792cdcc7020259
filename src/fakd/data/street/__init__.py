"""Made-up streets: what stands where, drawn in perspective, and how light falls on it."""
