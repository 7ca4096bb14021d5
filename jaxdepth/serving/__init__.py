"""Answering chats: a verdict and the visible answer, as a function and over HTTP."""
