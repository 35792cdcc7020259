"""From a student to a file for a device, and the guarantee that the file is as good."""
