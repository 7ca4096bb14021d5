"""C3, and C1, C2, C6 beside it: does what truncation does depend on how the model was aligned?

    python experiments/alignment_methods.py MODEL [--steps N] [any option of `jaxdepth sweep`]

Tunes MODEL by supervised refusals, by verdict tokens with short thoughts, and by preferences (DPO),
on the same prompts for the same number of steps, and compares them with the untouched model at
every exit, paired by prompt. Runs configs/alignment_methods.toml unless told otherwise. A study
that was stopped goes on with the same command.
"""

import sys

from jaxdepth.cli import guarded, parse, print_places
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.settings_file import read_settings
from jaxdepth.study.comparison.figures import draw_compared
from jaxdepth.study.comparison.outcomes import run_study
from jaxdepth.study.comparison.settings import Alignment, Study
from jaxdepth.study.comparison.summary import findings
from jaxdepth.study.settings import UNTOUCHED, Speaking
from jaxdepth.study.tuning.run import ADAPTER, tune
from jaxdepth.study.tuning.settings import Tune


def tuned(settings: Alignment, method: str) -> str:
    """Where the adapter of a method is, once it is there."""
    recipe = read_settings(Tune, settings.recipe) | {"method": method, "benign_target": "text"}
    recipe |= {"model": settings.model, "out": settings.out / "tune" / method}
    recipe |= {"dtype": settings.dtype, "answer_tokens": 48}  # room for a thought and a verdict
    if settings.steps is not None:
        recipe["steps"] = settings.steps
        recipe["warmup"] = min(recipe.get("warmup", Tune.warmup), settings.steps // 10)

    def named(what: str, unit: str):
        return progress_bar(f"{method}: {what}", unit)

    return str(tune(Tune(**recipe), named).path / ADAPTER)


def main() -> int:
    """Runs the study and prints the answers; returns the exit status."""
    settings = parse(Alignment, sys.argv[1:], "alignment_methods", config="alignment_methods")
    adapters = (UNTOUCHED, *(tuned(settings, method) for method in settings.methods))
    shared = {name: getattr(settings, name) for name in Speaking.__dataclass_fields__}
    compared = run_study(Study(**shared, adapters=adapters), progress_bar)
    print("\n".join(findings(compared)))
    print_places(settings.out, draw_compared(compared, settings.out / "figures"))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
