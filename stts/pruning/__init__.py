"""The method, and no host: scores of windows, what is kept, attention over survivors."""
