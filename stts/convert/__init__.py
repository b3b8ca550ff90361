"""Published training checkpoints and the folders of this library."""
