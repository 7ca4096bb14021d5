"""The answers of a finished run under other judges, and how far judges agree."""
