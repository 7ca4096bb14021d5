"""Sources of prompts: built-in sets, files, folders and the hub become rows, and rows prompts."""
