"""Linear probes of every layer, beside what the model does."""
