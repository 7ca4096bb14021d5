"""Linear probes of every layer, compared with what the model does."""
