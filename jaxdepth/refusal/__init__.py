"""Judging a text: refusal, coherence, outcome; and verdicts that a model decides by a token."""
