"""Quantised safetensors, dequantised to float32 as they are read; one file for each method.

A method finds the weights that several tensors hold together, and has one pure function from those
arrays to the weight (outputs, inputs). Only weights are dequantised: where a format rounds
activations or the cache too, the converted model does not.
"""
