"""From the command line to checked dataclasses."""
