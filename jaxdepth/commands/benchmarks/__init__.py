"""Commands about benchmarks of others."""
