"""The commands of `jaxdepth`, one file each: its settings, and `run`, which prints its results."""
