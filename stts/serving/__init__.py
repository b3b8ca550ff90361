"""Pruning models under serving engines: `layout` knows none of them, a folder each holds what one of them needs."""
