"""Think, then decide, at every exit."""
