"""Anybody's network as a `Segmenter`: what it is fed, what it answers, what makes its logits."""
