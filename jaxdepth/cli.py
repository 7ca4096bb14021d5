"""The command line: `jaxdepth convert | inspect | export | sweep | decide | probe | ...`."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields

import tyro

from jaxdepth.errors import InputError, nearest
from jaxdepth.runtime import distributed, preemption, profiling
from jaxdepth.settings_file import read_settings
from jaxdepth.study.checkpoints.settings import ProbeAgainst
from jaxdepth.study.planning.settings import Bench, Plan
from jaxdepth.study.policies.settings import PolicySweep
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.study.verdicts.settings import Decide
from jaxdepth.weights.settings import Convert, Export, Inspect

COMMANDS = {
    "convert": Convert,
    "inspect": Inspect,
    "export": Export,
    "sweep": PolicySweep,
    "decide": Decide,
    "probe": ProbeAgainst,
    "tune": Tune,
    "plan": Plan,
    "bench": Bench,
}

USAGE = """\
jaxdepth: what happens to a language model's safety when it is cut short

  jaxdepth convert SOURCE TARGET    Hugging Face folder or id, or GGUF file -> checkpoint
  jaxdepth inspect PATH             what a checkpoint, run, adapter or source is
  jaxdepth export MODEL TARGET      checkpoint (and adapter) -> Hugging Face folder
  jaxdepth sweep MODEL              every prompt at every exit -> tables and figures
  jaxdepth decide MODEL             think, then decide, at every exit -> tables and figures
  jaxdepth probe MODEL              what every layer knows, beside what it does -> tables
  jaxdepth tune MODEL               refusals at full depth or at every exit -> adapter
  jaxdepth bench MODEL              what all exits cost against one run
  jaxdepth plan MODEL               what a study needs on devices that are not there

  --config NAME    settings from a TOML file, or one in configs/ by its name
  --help           after a command: its options
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    0 done, 2 bad input, 3 a plan does not fit, 130 interrupted, 143 stopped by SIGTERM between two
    chunks.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; what a user can mend becomes one line and an exit status.

    Of several processes the first one prints.
    """
    # transformers says at every import that there is no torch; none is needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        distributed.start()
        with preemption.listening(), distributed.silenced():
            try:
                return command()
            finally:
                profiling.end_profile()
    except preemption.Stopped:
        if distributed.is_first():
            print("stopped as asked; run the same command again to go on", file=sys.stderr)
        return 143
    except distributed.AgreedError as error:
        return _fail(" ".join(str(error).split())) if distributed.is_first() else 2
    except InputError as error:
        return _fail(" ".join(str(error).split()))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}: check space and permissions")
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def entry() -> None:
    """The `jaxdepth` script."""
    sys.exit(main())


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    command = COMMANDS.get(argv[0])
    if command is None:
        raise InputError(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}; try --help")
    settings = parse(command, argv[1:], f"jaxdepth {argv[0]}")
    runs = {
        Convert: run_convert,
        Inspect: run_inspect,
        Export: run_export,
        PolicySweep: run_sweep_or_policies,
        Decide: run_decide,
        ProbeAgainst: run_probe,
        Tune: run_tune,
        Bench: run_bench,
        Plan: run_plan,
    }
    return runs[command](settings)


def parse(command: type, argv: list[str], program: str, config: str | None = None):
    """Settings from the command line over those of `--config`, or `config`, over the defaults."""
    argv, name = _take_config(argv)
    name = name or config
    start = {f.name: tyro.MISSING if f.default is MISSING else f.default for f in fields(command)}
    start |= read_settings(command, name) if name else {}
    about = f"{command.__doc__} Settings can also come from a file: --config NAME."
    found = tyro.cli(command, args=argv, default=command(**start), prog=program, description=about)
    profiling.start_profile(getattr(found, "profile", None))
    return found


def _take_config(argv: list[str]) -> tuple[list[str], str | None]:
    for place, word in enumerate(argv):
        if word == "--config":
            if place + 1 == len(argv):
                raise InputError("--config needs the name of a settings file")
            return argv[:place] + argv[place + 2 :], argv[place + 1]
        if word.startswith("--config="):
            return argv[:place] + argv[place + 1 :], word.removeprefix("--config=")
    return argv, None


def _fail(message: str) -> int:
    print(f"jaxdepth: error: {message}", file=sys.stderr)
    return 2


def run_convert(settings: Convert) -> int:
    from jaxdepth.runtime.progress import progress_bar
    from jaxdepth.weights.convert import convert

    with progress_bar("converting", "tensors") as progress:
        done = convert(settings.source, settings.target, settings.tokenizer, progress)
    print(f"{settings.target}: {'converted' if done else 'already converted from this source'}")
    return run_verify(settings) if settings.verify else 0


def run_verify(settings: Convert) -> int:
    from jaxdepth.runtime.progress import progress_bar
    from jaxdepth.weights.verify import verify

    with progress_bar("verifying", "arrays") as progress:
        found = verify(settings.source, settings.target, progress)
    print(f"verified: {found.arrays} arrays are those of {settings.source}")
    if found.logits is None:
        print(f"logits: {found.against}")
    else:
        print(f"logits of every exit: within {found.logits:.1g} of {found.against}")
    return 0


def run_inspect(settings: Inspect) -> int:
    from jaxdepth.study.inspection.inspect import print_seen

    print_seen(settings.path)
    return 0


def run_export(settings: Export) -> int:
    from jaxdepth.study.run_directory import check_file
    from jaxdepth.weights.adapter import find_adapter
    from jaxdepth.weights.export import export, export_checkpoint

    if settings.adapter is not None:
        check_file(find_adapter(settings.adapter))
    what = settings.model, settings.target, settings.adapter, settings.dtype
    if settings.to == "checkpoint":
        export_checkpoint(*what)
        print(f"{settings.target}: a checkpoint")
    else:
        export(*what)
        print(f"{settings.target}: a Hugging Face folder; `jaxdepth convert` reads it too")
    return 0


def run_tune(settings: Tune) -> int:
    from jaxdepth.runtime.progress import progress_bar
    from jaxdepth.study.tuning.run import ADAPTER, tune
    from jaxdepth.study.tuning.summary import draw_losses, print_losses

    run = tune(settings, progress_bar)
    print_losses(run.path)
    print_places(run.path, draw_losses(run.path))
    adapter = run.path / ADAPTER
    print(f"Adapter: {adapter} ({adapter.stat().st_size / 1e6:.1f} MB); use it with --adapter")
    return 0


def run_sweep_or_policies(settings: PolicySweep) -> int:
    from jaxdepth.study.policies.run import check_static

    if settings.policy:
        return run_policies(settings)
    check_static(settings)
    return run_sweep(Sweep(**{f.name: getattr(settings, f.name) for f in fields(Sweep)}))


def run_policies(settings: PolicySweep) -> int:
    from jaxdepth.runtime.progress import progress_bar
    from jaxdepth.study.policies.figures import draw_policies
    from jaxdepth.study.policies.rates import write_policies
    from jaxdepth.study.policies.run import dynamic_sweep
    from jaxdepth.study.policies.summary import print_policies

    run = dynamic_sweep(settings, progress_bar)
    write_policies(run, settings.seed)
    print_policies(run.path)
    print_places(run.path, draw_policies(run.path))
    return 0


def run_sweep(settings: Sweep) -> int:
    from jaxdepth.depth.lanes import describe, plan_segments
    from jaxdepth.runtime.progress import progress_bar
    from jaxdepth.study.figures import draw_first_token, draw_outcomes
    from jaxdepth.study.sweep.curves import depth_curves
    from jaxdepth.study.sweep.rates import write_rates
    from jaxdepth.study.sweep.run import sweep
    from jaxdepth.study.sweep.summary import print_curves, print_outcomes

    run = sweep(settings, progress_bar)
    if settings.max_new_tokens:
        exits = run.record["settings"]["exits"]
        print(f"Staircase: {describe(plan_segments(exits), exits)}\n")
    curves = depth_curves(run.path, settings.seed)
    write_rates(run, curves, settings.seed)
    print_curves(curves)
    figures = draw_first_token(curves, run.path / "figures")
    if run.finished("generations"):
        print_outcomes(run.path)
        figures |= draw_outcomes(run.path)
    print_places(run.path, figures)
    return 0


def run_decide(settings: Decide) -> int:
    from jaxdepth.runtime.progress import progress_bar
    from jaxdepth.study.verdicts.cost import write_cost
    from jaxdepth.study.verdicts.figures import draw_verdicts
    from jaxdepth.study.verdicts.run import think
    from jaxdepth.study.verdicts.scores import write_verdicts
    from jaxdepth.study.verdicts.summary import print_verdicts

    run, thinker, batch = think(settings, progress_bar)
    write_cost(run, thinker, batch)
    write_verdicts(run, settings.seed)
    words = ", ".join(map(repr, thinker.markers.words))
    print(f"Verdict words of this model: {words}\n")
    print_verdicts(run)
    print_places(run.path, draw_verdicts(run.path))
    return 0


def run_probe(settings: ProbeAgainst) -> int:
    if settings.against is not None:
        return run_against(settings)
    if settings.facts is not None:
        raise InputError("--facts compares two checkpoints: name the other with --against")
    from jaxdepth.runtime.progress import progress_bar
    from jaxdepth.study.probes.figures import draw_probes
    from jaxdepth.study.probes.run import probe
    from jaxdepth.study.probes.summary import print_probes

    one = {f.name: getattr(settings, f.name) for f in fields(Probe)}
    run = probe(Probe(**one), progress_bar)
    print_probes(run.path)
    print_places(run.path, draw_probes(run.path))
    return 0


def run_against(settings: ProbeAgainst) -> int:
    from jaxdepth.runtime.progress import progress_bar
    from jaxdepth.study.checkpoints.figures import draw_against
    from jaxdepth.study.checkpoints.run import compare_checkpoints
    from jaxdepth.study.checkpoints.summary import print_against

    out = compare_checkpoints(settings, progress_bar)
    print_against(out)
    print_places(out, draw_against(out))
    return 0


def print_places(run_path, figures) -> None:
    """Where the results are."""
    print(f"\nTables are in {run_path}. Figures drawn from them (also as .svg):")
    for path, shows in figures.items():
        print(f"  {path}\n    {shows}")


def run_bench(settings: Bench) -> int:
    from jaxdepth.study.planning.bench import bench

    print("ratios to one run at full depth: median of the rounds (range)\n")
    print("| prompts | new tokens | program | ratio (range) | compile, s |")
    print("|---|---|---|---|---|")
    for row in bench(settings):
        print(
            f"| {row.prompts} | {row.new_tokens} | {row.program} | "
            f"{row.ratio:.2f} ({row.low:.2f}-{row.high:.2f}) | {row.compile_seconds:.0f} |",
            flush=True,
        )
    return 0


def run_plan(settings: Plan) -> int:
    from jaxdepth.study.planning.run import no_accelerator, plan
    from jaxdepth.study.planning.summary import plan_lines

    no_accelerator(settings)
    planned = plan(settings)
    print("\n".join(plan_lines(settings, planned)))
    return 0 if planned.fits else 3
