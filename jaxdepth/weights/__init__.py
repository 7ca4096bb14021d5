"""From the weight files of other tools to a checkpoint: map, read, convert, verify, load."""
