"""Judges of answers besides the built-in one: published guards, endpoints, a user's function."""
