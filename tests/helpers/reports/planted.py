"""Finished sweeps without a model, for reports: outcomes as a test wants them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from jaxdepth.study.common_tables import FIRST_TOKEN, GENERATIONS, PROMPTS
from jaxdepth.study.run_directory import Run
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.rates import write_rates

LETTERS = {"r": "refuse", "p": "partial", "c": "comply", "o": "off-topic", "d": "degenerate"}


def write_sweep(
    path: Path,
    outcomes: Mapping[str, Sequence[str]],
    *,
    depth: int | None = None,
    text: Callable[[str, int], str] = lambda prompt_id, exit_layer: f"{prompt_id} at {exit_layer}",
    prompt: Callable[[str], Mapping] = lambda prompt_id: {},
    settings: Mapping = MappingProxyType({}),
    **facts,
) -> Path:
    """A finished sweep.

    Args:
        path: the run directory.
        outcomes: prompt id -> a letter of `LETTERS` for each exit, from 1 on. Ids that begin with
            `bad` are of harmful prompts.
        depth: layers of the model; by default the last exit.
        text: the answer to a prompt at an exit.
        prompt: columns of a prompt that are not as usual.
        settings: that differ.
        facts: more of them in run.json.
    """
    exits = range(1, 1 + len(next(iter(outcomes.values()))))
    usual = {"command": "sweep", "seed": 0, "judge": "x", "max_new_tokens": 8, "exits": [*exits]}
    run = Run.open(path, usual | {**settings}, {"depth": depth or exits[-1], **facts})
    prompts = [
        {
            "prompt_id": name,
            "text": f"Prompt {name}?",
            "label": "harmful" if name.startswith("bad") else "harmless",
            "category": "planted",
            "pair_id": None,
            "source": "set",
            **prompt(name),
        }
        for name in outcomes
    ]
    keys = [(name, e) for name in outcomes for e in exits]
    answers = [
        {"prompt_id": name, "exit": e, "sample": 0, "text": text(name, e)}
        | {"outcome": LETTERS[outcomes[name][e - 1]], "n_tokens": 8, "ended": "length"}
        for name, e in keys
    ]
    first = [
        {"prompt_id": name, "exit": e, "refusal_log_odds": 0.0, "agrees_with_full": True}
        | {"kl_to_full": 0.0}
        for name, e in keys
    ]
    run.write_table(PROMPTS.name, PROMPTS.from_rows(prompts))
    run.write_table(GENERATIONS.name, GENERATIONS.from_rows(answers))
    run.write_table(FIRST_TOKEN.name, FIRST_TOKEN.from_rows(first))
    write_rates(run, depth_curves(path), Windows())
    return path


def planted(harmful: Sequence[int], harmless: Sequence[int], n: int) -> dict[str, str]:
    """Outcomes in which so many of n prompts are answered at each exit; others: refused, broken."""
    bad = {f"bad{i:04d}": "".join("c" if i < k else "r" for k in harmful) for i in range(n)}
    good = {f"good{i:04d}": "".join("c" if i < k else "d" for k in harmless) for i in range(n)}
    return bad | good
