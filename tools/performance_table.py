"""Programs of a 7B model on cards and TPUs: the floor, the plan, and what was measured.

    python tools/performance_table.py CONFIG [--on H100 H100x8:data=8 v5e:2x4:data=2,model=4]
        [--prompts 8] [--measured runs/gpu_check/gpu_check.json]

Prints a row when its program has been compiled, which needs no device but its compiler
(`jaxdepth[cuda]` or `jaxdepth[tpu]`); where that is missing the rows say so. The floor is what
cannot be less: products at the published rate, or weights and caches read once a pass at the
published bandwidth. The plan is that of the compiled program, its copies and what chips send each
other included. What was measured is `tools/gpu_check.py`'s, of decoding with its prefill.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.model.sharding import rows_of
from jaxdepth.study.planning import programs
from jaxdepth.study.planning.compiled import bytes_per_device
from jaxdepth.study.planning.roofline import Program
from jaxdepth.study.planning.run import use_only_cpu
from jaxdepth.study.planning.settings import Plan
from jaxdepth.study.planning.shapes import Shapes, shapes_of

ON = ("H100", "H100x8:data=8", "H100x8:model=8", "v5e:2x4:data=2,model=4")
SEQUENCES = 8  # of a tuning step, of each device or group that shares prompts
MEASURED = "{} x all exits, s"  # a row of tools/gpu_check.py


def plan_of(config: Path, on: str, prompts: int) -> Plan:
    """Settings for `H100`, for `H100x8:MESH`, or for a TPU slice `v5e:2x4:MESH`."""
    kind, *rest = on.split(":")
    gpu, _, count = kind.partition("x")
    if len(rest) == 2:
        return Plan(config, topology=f"{kind}:{rest[0]}", mesh=rest[1], prompts=prompts)
    mesh = rest[0] if rest else "data=1"
    return Plan(config, gpus=int(count or 1), gpu=gpu, mesh=mesh, prompts=prompts)


def floor_of(shapes: Shapes, program: Program, passes: int) -> float:
    """Seconds that the program cannot be faster than, whatever it is compiled to."""
    read = bytes_per_device(shapes.model) - bytes_per_device(shapes.model.embed)  # a few rows of it
    read = passes * (read + program.caches)
    return max(program.flops / shapes.chip.flops, read / shapes.chip.bandwidth)


def row(shapes: Shapes, program: Program, on: str, what: str, measured: str) -> str:
    steps = shapes.settings.new_tokens - 1
    passes = {"decode, all exits": steps, programs.TUNING: 3}.get(program.name, 1)
    kernels = f"{program.weights.kernels:,}" if program.weights else ""
    cells = (
        program.name, on, what, _time(floor_of(shapes, program, passes)), _time(program.seconds),
        program.bound_by, kernels, f"{program.temporaries / 1e9:.2f} GB",
        "yes" if program.fits else "no", measured,
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="a config.json")
    parser.add_argument("--on", nargs="+", default=ON)
    parser.add_argument("--prompts", type=int, default=8, help="at once, of each that shares them")
    parser.add_argument("--only", nargs="+", help="names of programs")
    parser.add_argument("--measured", type=Path, help="the JSON of tools/gpu_check.py")
    args = parser.parse_args()
    found = json.loads(args.measured.read_text())["rows"]["mistral_7b"] if args.measured else []
    values = {row["what"]: f"{row['measured']} s" for row in found}
    print("| program | on | at once | floor | planned | bound by | kernels | temporaries | fits "
          "| measured |\n" + "|---" * 10 + "|", flush=True)  # fmt: skip
    for on in args.on:
        settings = plan_of(args.config, on, args.prompts)
        use_only_cpu(settings)
        try:
            shapes = shapes_of(settings)
        except InputError as error:
            print(f"| all | {on} | | not compiled: {error} | | | | | | |", flush=True)
            continue
        rows = rows_of(shapes.mesh)
        prompts, sequences = rows * args.prompts, rows * SEQUENCES
        shapes = replace(shapes, settings=replace(settings, sequences=sequences))
        for name, compile_one in programs.compilers(shapes, prompts).items():
            if args.only and name not in args.only:
                continue
            what = f"{sequences} sequences" if name == programs.TUNING else f"{prompts} prompts"
            is_decode = name.startswith("decode") and on == "H100"
            measured = values.get(MEASURED.format(prompts), "not run") if is_decode else "not run"
            print(row(shapes, compile_one(), on, what, measured), flush=True)


if __name__ == "__main__":
    main()
