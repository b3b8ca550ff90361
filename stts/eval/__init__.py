"""Asking a model the questions of a benchmark: tasks (what is asked), runner (the loop), records, summary."""
