"""A local web page that compares networks on a dropped image."""
