"""The built-in data: street scenes made up from a seed."""
