"""A page to drop a video on: look at what is kept of it, compare settings, ask."""
