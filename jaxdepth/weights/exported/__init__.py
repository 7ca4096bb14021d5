"""What an exported folder has besides its weights, in the form that other tools read."""
