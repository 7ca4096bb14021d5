"""Exit depth and prefill length: one map of what exits do after a given start of the reply."""
