"""Certificates: which exit or policy keeps three risks within tolerances."""
