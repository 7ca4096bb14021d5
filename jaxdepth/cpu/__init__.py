"""What only a CPU needs. XLA on other platforms does these things by itself."""
