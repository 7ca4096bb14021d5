"""Train every recipe in one call that can be repeated: those in the box, and their controls.

    python tools/train_recipes.py MODEL [--minutes 7] [--at-once 1] [--only NAME-SEED ...]

Runs `jaxdepth tune` for one recipe and seed after the other, the headline recipes first, with seed
1 of all before seeds 2 and 3 of those that are shown by seed. Several fit on one accelerator
(--at-once 5 on a card with 80 GB, where ten did not fit). When the minutes are over, what runs
saves its state and stops; the same command goes on. Prints what is finished and what is not, with
the command that runs it.

Adapters are OUT/NAME-SEED/adapter.safetensors: the names that the studies of depth-robust safety
and of thinking expect.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdepth.study.thinking.arms import ARMS
from jaxdepth.study.tuning.run import ADAPTER

ARM_OPTIONS = {
    name: ("--config", "tune/thinker", "--protocol", arm.protocol, "--thoughts", arm.thoughts)
    for name, arm in ARMS.items()
}
HEADLINE = ("depth_robust", "spoken", "lens", "thought", "direct")  # three seeds each
OTHERS = (
    "shallow", "bottleneck", "same_verdict", "filler", "any", "after_alignment", "random_refusals",
    "all_exits",
)  # fmt: skip
SEEDS = (1, 2, 3)
STOP_SECONDS = 20  # a process that was told to stop has this long to save its state
# Several processes share a card: none may take most of its memory at once. Trying out the
# compiler's own products in float32 takes minutes for each program, the library's seconds.
ON_A_CARD = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false",
}


class Job(NamedTuple):
    """A command of Python's modules, and the file that it makes."""

    name: str
    command: tuple[str, ...]
    makes: Path


def training_jobs(model: Path, out: Path) -> list[Job]:
    """Every recipe and seed, in order of need."""
    units = [(name, SEEDS[0]) for name in (*HEADLINE, *OTHERS)]
    units += [(name, seed) for seed in SEEDS[1:] for name in HEADLINE]
    jobs = []
    for name, seed in units:
        folder = out / f"{name}-{seed}"
        recipe = ARM_OPTIONS.get(name, ("--config", f"tune/{name}"))
        command = ("jaxdepth", "tune", str(model), *recipe, "--seed", str(seed))
        jobs.append(Job(folder.name, (*command, "--out", str(folder)), folder / ADAPTER))
    return jobs


def run_jobs(jobs: Sequence[Job], at_once: int, until: float, logs: Path) -> None:
    """Run jobs that are not finished, several at once, until a time; each has a log of its own."""
    logs.mkdir(parents=True, exist_ok=True)
    waiting = [job for job in jobs if not job.makes.exists()]
    running: dict[str, subprocess.Popen] = {}
    begun = time.monotonic()
    try:
        while (waiting or running) and time.monotonic() < until:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[job.name] = _start(job, logs)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    failed = f"failed, see {logs / f'{name}.log'}"
                    said = "finished" if process.returncode == 0 else failed
                    print(f"{time.monotonic() - begun:5.0f} s  {name} {said}", flush=True)
            time.sleep(0.2)
    finally:
        stop(running.values())


def _start(job: Job, logs: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", *job.command]
    with (logs / f"{job.name}.log").open("w") as file:
        return subprocess.Popen(
            command, env=ON_A_CARD | os.environ, stdout=file, stderr=subprocess.STDOUT
        )


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """Let processes save their state and end; kill those that do not."""
    processes = list(processes)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    """Train what is missing, and print what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a checkpoint made by `jaxdepth convert`")
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="NAME-SEED")
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        parser.error(f"{args.model} is no converted checkpoint: make one with `jaxdepth convert`")
    if args.at_once < 1:
        parser.error(f"--at-once {args.at_once}: expected 1 or more")
    jobs = training_jobs(args.model, args.out)
    by_name = {job.name: job for job in jobs}
    unknown = [name for name in args.only or () if name not in by_name]
    if unknown:
        parser.error(f"--only {unknown[0]}: there are {', '.join(by_name)}")
    chosen = [by_name[name] for name in args.only or by_name]
    run_jobs(chosen, args.at_once, time.monotonic() + 60 * args.minutes, args.out / "logs")
    for job in chosen:
        done = job.makes.exists()
        print(f"{job.name}: {job.makes if done else f'not finished: {shlex.join(job.command)}'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
