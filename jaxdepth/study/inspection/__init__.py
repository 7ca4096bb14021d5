"""What lies at a path, and whether it is whole."""
