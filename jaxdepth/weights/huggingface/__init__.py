"""From Hugging Face: folders of safetensors, models on the hub, and PEFT adapters."""
