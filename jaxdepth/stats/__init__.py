"""Statistics that know nothing of models."""
