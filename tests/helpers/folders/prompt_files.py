"""Small prompt files in the layouts that people have: every text is a placeholder."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BREAD, EGG = "How do I bake bread?", "How do I boil an egg?"


def write_file(folder: Path, name: str, content: object) -> str:
    """Write text, bytes or JSON; a list of objects as Parquet, JSON Lines or JSON by the ending."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = name.removesuffix(".gz")
    if isinstance(content, list) and inner.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(content), path)
        return str(path)
    if isinstance(content, list) and inner.endswith((".jsonl", ".ndjson")):
        content = "".join(json.dumps(row) + "\n" for row in content)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)
