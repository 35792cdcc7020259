"""Networks of mmsegmentation: their checkpoints, names and published scores."""
