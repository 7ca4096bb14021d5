"""`jaxdepth plan` and `jaxdepth bench`: what programs need on other devices, and take on these."""
