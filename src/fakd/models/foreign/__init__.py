"""External networks as a `Segmenter`: preprocessing, location of logits, classifier layer."""
