"""One base under many settings, and the demo."""
