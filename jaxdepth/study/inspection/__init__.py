"""`jaxdepth inspect`: what is at a path, and whether it is undamaged."""
