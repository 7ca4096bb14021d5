"""From GGUF files: header, metadata, tensors, tokenizer."""
