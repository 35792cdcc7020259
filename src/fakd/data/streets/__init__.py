"""The built-in data set: made-up street scenes, drawn in perspective and lit."""
