"""Several models compared prompt by prompt."""
