"""Every prompt at every exit."""
