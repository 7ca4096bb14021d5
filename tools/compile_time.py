"""What compiling a decoding step costs with layers apart, and stacked.

    python tools/compile_time.py CONFIG [--layers 8 32] [--rounds 1]

Compiles `jaxdepth plan`'s decoding program at all exits (8 prompts of 256 tokens) for a described
H100 in bfloat16 where `jaxdepth[cuda]` is installed, else for a CPU in float32. Both forms take
turns in one process. Prints seconds of processor time, tracing included, of all threads and of the
compilers that XLA starts: other work on the machine changes them little.
"""

import argparse
import json
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxdepth.study.planning import programs
from jaxdepth.study.planning.cards import has_compiler
from jaxdepth.study.planning.run import use_only_cpu
from jaxdepth.study.planning.settings import Plan
from jaxdepth.study.planning.shapes import Shapes, shapes_of

PROMPTS, DECODE = 8, "decode, all exits"


def processor_seconds() -> float:
    """Of this process so far, and of those that it has started and that have ended."""
    who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, who))


def seconds_of(shapes: Shapes) -> float:
    """Processor seconds to trace and compile decoding."""
    jax.clear_caches()
    before = processor_seconds()
    programs.compilers(shapes, PROMPTS)[DECODE]()
    return processor_seconds() - before


def main() -> None:
    """Print a row for each number of layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="a config.json")
    parser.add_argument("--layers", type=int, nargs="+", default=(8, 32))
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    dtype = "bfloat16" if has_compiler() else "float32"
    print("| for | layers | stacked, s | apart, s | ratio |\n" + "|---" * 5 + "|", flush=True)
    for layers in args.layers:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.json"
            raw = json.loads(args.config.read_text()) | {"num_hidden_layers": layers}
            file.write_text(json.dumps(raw))
            settings = Plan(file, gpus=1, sequences=0, dtype=dtype)
            use_only_cpu(settings)
            shapes = shapes_of(settings)
        forms = [replace(shapes, apart=apart) for apart in (False, True)]
        taken = [[seconds_of(form) for form in forms] for _ in range(args.rounds)]
        stacked, apart = np.median(taken, axis=0)
        cells = (
            shapes.platform,
            layers,
            f"{stacked:.1f}",
            f"{apart:.1f}",
            f"{apart / stacked:.2f}",
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
