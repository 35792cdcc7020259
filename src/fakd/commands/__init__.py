"""The commands: one function per file, whose signature is its flags and its recipe."""
