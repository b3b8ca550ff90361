"""What evaluations say: comparisons, and one page of HTML."""
