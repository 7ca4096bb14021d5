"""Tuning: data, losses by exit, low-rank adapters, and the steps that fit them."""
