"""GGUF files: header, configuration, tensors, tokenizer."""
