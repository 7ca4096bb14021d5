"""Tuning: tasks, losses at exits, which exits are supervised, and the training step."""
