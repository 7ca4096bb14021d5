"""An OpenAI-compatible server: requests, replies, the queue of chats, limits and metrics."""
