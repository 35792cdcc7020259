"""One page on this machine: networks beside each other on an image that is dropped onto it."""
