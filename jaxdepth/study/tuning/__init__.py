"""Tuning a checkpoint to refuse."""
