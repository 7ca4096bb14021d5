"""Linear probes of the residual stream, directions in it, and controls for both."""
