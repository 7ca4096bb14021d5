"""Run one part and write its rows, each as soon as it is measured."""

import argparse
import importlib
import json
import time
from pathlib import Path

from gpu_parts.shapes import Check

parser = argparse.ArgumentParser()
parser.add_argument("part")
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--model", type=Path)
parser.add_argument("--seconds", type=float, default=300)
parser.add_argument("--toy", action="store_true")
args = parser.parse_args()
check = Check(args.out, args.model, args.toy, time.monotonic() + args.seconds)
with (args.out / f"{args.part}.jsonl").open("a", encoding="utf-8") as file:
    for row in importlib.import_module(f"gpu_parts.{args.part}").measure(check):
        print(json.dumps(row), file=file, flush=True)
    print(json.dumps({"what": "done"}), file=file)
