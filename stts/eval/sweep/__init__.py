"""Accuracy over cost: one checkpoint at many frame counts and prune ratios."""
