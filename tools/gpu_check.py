"""What one card does with jaxdepth: parity, ceilings, 7B shapes, what else one could do, tuning.

    python tools/gpu_check.py [MODEL] [--minutes 5] [--out runs/gpu_check] [--only PART ...]

Downloads nothing and uses the jax that is there. Each part is a process of its own, which has its
share of the time that is left and is stopped when it is over; what it measured is kept. The same
command goes on with the parts that are missing. A part whose needs are missing says `not run`.
Writes OUT/gpu_check.json, and prints one markdown table last. `--toy` is for trying the script:
tiny shapes, on any device.

Args:
    MODEL: a converted SmolLM2; without it parity is that of tiny random models.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).parent
# In order of need: the later ones compare with what the earlier ones measured.
PARTS = {
    "ceilings": "of the card",
    "mistral_7b": "random weights, bfloat16",
    "parity": "against this machine's CPU",
    "kernels": "of decoding, 7B shapes",
    "tuning": "LoRA of rank 8",
    "peers": "what else one could do",
}
# What a part may take of the time that is left, beside the parts after it.
SHARES = {"ceilings": 1, "mistral_7b": 5, "parity": 3, "kernels": 2, "tuning": 2, "peers": 4}
LEAST_SECONDS = 15  # a part with less time is not begun
DONE = {"what": "done"}


def run_part(part: str, args: argparse.Namespace, seconds: float) -> str | None:
    """Run a part in a process of its own; return why it did not end, or None."""
    rows, log = args.out / f"{part}.jsonl", args.out / f"{part}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gpu_parts", part, "--out", args.out]
    command += ["--seconds", f"{seconds:.0f}", *(["--toy"] if args.toy else [])]
    command += ["--model", args.model] if args.model else []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", str(args.out.absolute() / "programs")
        ),
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a process that hangs in a driver ignores TERM
            process.wait()
            return f"stopped after {seconds:.0f} s"
    if process.returncode:
        words = log.read_text(errors="replace").split("\n")
        status = f"no message, status {process.returncode}"
        last = next((line for line in reversed(words) if line.strip()), status)
        return f"failed: {last.strip()[:160]}"
    return None


def read_rows(out: Path, part: str) -> list[dict]:
    """What a part has measured."""
    path = out / f"{part}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def table(rows_of: dict[str, list[dict]], ended: dict[str, str]) -> str:
    """All rows in markdown."""
    lines = ["| part | what | measured | target |", "|---|---|---|---|"]
    for part, about in PARTS.items():
        for row in rows_of[part]:
            if row != DONE:
                cells = (row["what"], row["measured"], row.get("target", ""))
                lines.append(f"| {part}: {about} | {' | '.join(cells)} |")
        if part in ended:
            lines.append(f"| {part}: {about} | | not run: {ended[part]} | |")
    return "\n".join(lines)


def main() -> int:
    """Run the parts that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args()
    if args.model and not (args.model / "config.json").is_file():
        parser.error(f"{args.model} is no converted checkpoint: make one with `jaxdepth convert`")
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    missing = [part for part in PARTS if DONE not in read_rows(args.out, part)]
    ended = {part: "left out by --only" for part in missing if part not in args.only}
    missing = [part for part in missing if part in args.only]
    for n, part in enumerate(missing):
        left = end - time.monotonic()
        share = SHARES[part] / sum(SHARES[later] for later in missing[n:])
        seconds = max(share * left, LEAST_SECONDS)
        if left < LEAST_SECONDS:
            ended[part] = "no time left; the same command goes on"
            continue
        print(f"{part}, at most {seconds:.0f} s ...", file=sys.stderr, flush=True)
        why = run_part(part, args, seconds)
        if why:
            ended[part] = why
    rows_of = {part: read_rows(args.out, part) for part in PARTS}
    report = args.out / "gpu_check.json"
    report.write_text(json.dumps({"rows": rows_of, "not run": ended}, indent=1))
    print(table(rows_of, ended))
    print(f"\nJSON, and a log of each part: {report.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
