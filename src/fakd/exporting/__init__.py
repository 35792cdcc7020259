"""Export of a student for deployment, with a guarantee that the file is as good."""
