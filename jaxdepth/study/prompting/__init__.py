"""The prompts of a study: which they are, and how they are written for the model."""
