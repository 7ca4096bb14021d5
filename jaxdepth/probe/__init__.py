"""What each layer knows: linear probes of the residual stream, and what they are held against."""
