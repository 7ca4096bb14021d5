"""lm-evaluation-harness: a model for it, and its tasks at every exit from one pass."""
