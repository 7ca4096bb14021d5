"""Evaluation libraries of others over the engine: any of their tasks at every exit."""
