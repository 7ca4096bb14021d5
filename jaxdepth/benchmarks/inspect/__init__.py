"""Inspect (https://inspect.aisi.org.uk): a model provider, tasks at every exit, runs as logs."""
