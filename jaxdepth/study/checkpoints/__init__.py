"""Two checkpoints compared: probes, control domain, knowledge."""
