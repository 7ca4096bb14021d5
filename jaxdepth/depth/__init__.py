"""The depth engine: logits and generation when only a model's first layers run."""
