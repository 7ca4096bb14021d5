"""Does the effect of truncation depend on how the model was aligned?

Tests C3 (it depends on the alignment method), and beside it C1 (truncation strips refusals), C2
(while exits can still answer) and C6 (skipping 30-50% of the layers keeps quality).

    python experiments/alignment_methods.py MODEL [--steps N] [any option of `jaxdepth sweep`]

Tunes MODEL by supervised refusals, by verdict tokens with short thoughts, and by preferences (DPO),
on the same prompts for the same number of steps, and compares them with the untouched model at
every exit, paired by prompt. The settings are configs/alignment_methods.toml by default. The same
command resumes a study that was stopped.
"""

import sys

from jaxdepth.cli import guarded
from jaxdepth.commands.parsing import parse
from jaxdepth.commands.printing import print_places
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.settings_file import build, read_settings
from jaxdepth.study.comparison.figures import draw_compared
from jaxdepth.study.comparison.run import run_study
from jaxdepth.study.comparison.settings import Alignment, Study
from jaxdepth.study.comparison.summary import findings
from jaxdepth.study.settings import UNTOUCHED
from jaxdepth.study.tuning.run import ADAPTER, tune
from jaxdepth.study.tuning.settings import Optimisation, Tune


def tuned(settings: Alignment, method: str) -> str:
    """Tune by one method; returns the adapter's path."""
    recipe = read_settings(Tune, settings.recipe) | {"method": method, "benign_target": "text"}
    recipe |= {
        "model": settings.study.model.model,
        "out": settings.study.output.out / "tune" / method,
    }
    # Room for a thought and a verdict.
    recipe |= {"dtype": settings.study.model.dtype, "answer_tokens": 48}
    if settings.steps is not None:
        warmup = recipe.get("warmup", Optimisation().warmup)
        recipe |= {"steps": settings.steps, "warmup": min(warmup, settings.steps // 10)}

    def named(what: str, unit: str):
        return progress_bar(f"{method}: {what}", unit)

    return str(tune(build(Tune, recipe), named).path / ADAPTER)


def main() -> int:
    """Run the study and print its findings; return the exit status."""
    settings = parse(Alignment, sys.argv[1:], "alignment_methods", config="alignment_methods")
    adapters = (UNTOUCHED, *(tuned(settings, method) for method in settings.methods))
    compared = run_study(Study(settings.study, adapters), progress_bar)
    print("\n".join(findings(compared)))
    out = settings.study.output.out
    print_places(out, draw_compared(compared, out / "figures"))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
