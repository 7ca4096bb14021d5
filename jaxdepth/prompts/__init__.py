"""Prompts: read, rendered as chats, encoded, batched."""
