"""The built-in data set: synthetic street scenes, drawn in perspective and shaded."""
