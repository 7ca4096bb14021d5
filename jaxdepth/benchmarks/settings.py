"""Settings of evaluating a model, at every exit, on tasks of other libraries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.ranges import COUNT, POSITIVE, Range
from jaxdepth.study.settings import AdaptedModel, Devices, Output

Library = Literal["inspect", "lm-eval"]


@dataclass(frozen=True)
class Evaluating:
    """The tasks, the exits, and how much runs at once."""

    tasks: tyro.conf.Positional[
        Annotated[
            tuple[str, ...],
            tyro.conf.arg(metavar="TASKS", help_behavior_hint="(required)"),
        ]
    ]
    """Tasks of the library, by the names that it knows, or files: for Inspect, FILE.py or
    FILE.py@TASK; for lm-eval, FILE.yaml."""
    with_: Annotated[Library, tyro.conf.arg(name="with")]
    """Library whose tasks these are: inspect (Inspect) or lm-eval (lm-evaluation-harness)."""
    exits: Annotated[str, tyro.conf.arg(metavar="EXITS")] = "all"
    """Exits to evaluate: all, or numbers and ranges such as 1,8,16-30. An exit is how many layers
    run before the final norm and head."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N"), COUNT] = None
    """Keep the first N samples of each task."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N"), COUNT] = 16
    """Requests in a batch. Changes speed and memory, not results."""
    memory_gb: Annotated[float, tyro.conf.arg(metavar="GB"), POSITIVE] = 2.0
    """Memory for KV caches and logits on each device, in GiB."""


@dataclass(frozen=True)
class InspectOptions:
    """Options of --with inspect alone."""

    task_args: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """With --with inspect: arguments of the tasks, their values as in YAML."""
    model_roles: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROLE=MODEL")] = ()
    """With --with inspect: models for the roles of a task, such as grader=openai/gpt-4o. Without
    one an exit grades its own answers where a task asks a model for grades."""
    max_tokens: Annotated[int | None, tyro.conf.arg(metavar="N"), COUNT] = None
    """With --with inspect: maximum new tokens of an answer; by default the task's, else 512."""
    temperature: Annotated[float | None, tyro.conf.arg(metavar="T"), Range(0)] = None
    """With --with inspect: sampling temperature; by default the task's, else 0 (greedy)."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="N"), COUNT] = None
    """With --with inspect: how often each sample is answered; by default the task's, else once."""


@dataclass(frozen=True)
class LmEvalOptions:
    """Options of --with lm-eval alone."""

    num_fewshot: Annotated[int | None, tyro.conf.arg(metavar="N"), Range(0)] = None
    """With --with lm-eval: few-shot examples before each document; by default the task's."""
    apply_chat_template: bool = False
    """With --with lm-eval: write prompts in the model's chat template, few-shot examples as turns
    of a conversation."""
    system_instruction: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """With --with lm-eval: a system message, or text before the prompt without a template."""
    gen_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """With --with lm-eval: generation settings over the task's: max_gen_toks, until, do_sample,
    temperature, top_k, top_p."""
    max_length: Annotated[int | None, tyro.conf.arg(metavar="N"), COUNT] = None
    """With --with lm-eval: the maximum of tokens that the model reads; longer prompts lose their
    start, longer texts are read in windows. By default all that the model can."""
    include_path: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER")] = ()
    """With --with lm-eval: folders with .yaml files of more tasks."""
    log_samples: bool = False
    """With --with lm-eval: write a line for every document at every exit, too."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a model on tasks of other libraries, at all exits in one pass over the prompts."""

    model: AdaptedModel
    evaluating: Evaluating
    inspect: InspectOptions = InspectOptions()
    lm_eval: LmEvalOptions = LmEvalOptions()
    devices: Devices = Devices()
    output: Output = Output(Path("runs/evaluate"))


@dataclass(frozen=True)
class ExportLogs:
    """Write a finished sweep as logs of another library: one for each exit, outcomes as scores."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """A finished run of `jaxdepth sweep` with static exits that has answers."""
    to: Literal["inspect"]
    """Library whose logs they are: inspect (Inspect; `inspect view` opens them)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder to write to; by default the folder inspect in RUN."""


def options_of_others(settings: Evaluate) -> list[str]:
    """The options that are given and that the chosen library does not have."""
    groups = {"inspect": settings.inspect, "lm-eval": settings.lm_eval}
    return [
        name.replace("_", "-")
        for library, group in groups.items()
        if library != settings.evaluating.with_
        for name, value in vars(group).items()
        if value != getattr(type(group)(), name)
    ]
