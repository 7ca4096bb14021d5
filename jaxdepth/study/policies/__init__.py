"""Per-token exit policies against static exits."""
