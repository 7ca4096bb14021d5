"""Statistics that do not depend on models."""
