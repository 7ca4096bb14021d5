"""A finished sweep as logs of Inspect: one for each exit, with the outcomes as scores."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
)
from inspect_ai.scorer import Score

from jaxdepth.errors import InputError
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.atomic_files import atomic_write
from jaxdepth.study.common_tables import GENERATIONS, NON_FINITE, prompt_rows
from jaxdepth.study.judging.tables import JUDGEMENTS
from jaxdepth.study.run_directory import read_frame, read_record
from jaxdepth.study.sweep.outcomes import read_outcomes

FOLDER = "inspect"  # in the run directory
TASK = "sweep"
OUTCOME = "outcome"  # the score that the run itself has
_REASONS: Mapping[str, Literal["stop", "max_tokens", "unknown"]] = {
    "eos": "stop",
    "stop": "stop",
    "length": "max_tokens",
    NON_FINITE: "unknown",
}
_KEY = ["prompt_id", "exit", "sample"]
_NUMBERS = ("score", "refusal_score", "repetition", "coherent", "topicality", "agreement")
_PACKAGES = ("jaxdepth", "jax", "flax", "transformers", "inspect-ai")


def export_logs(run_path: Path, folder: Path | None = None) -> tuple[Path, int]:
    """Write a log for each exit of a finished sweep; logs of an earlier export are replaced.

    Args:
        run_path: the run, with static exits and answers.
        folder: where the logs go; by default the folder inspect in the run.

    Returns:
        The folder, and how many logs there are.

    Raises:
        InputError: there is no such run, it is not finished or damaged, or of another command.
    """
    record = read_record(run_path)
    command = record["settings"]["command"]
    if command != "sweep":
        raise InputError(
            f"{run_path} is a run of {command}, expected one of sweep without --policy"
        )
    if GENERATIONS.name not in record["tables"]:
        raise InputError(
            f"{run_path} has no finished answers: run the sweep to its end, with --max-new-tokens"
        )
    read_outcomes(run_path)  # which checks that every prompt has its answers
    prompts, answers = prompt_rows(run_path), read_frame(run_path, GENERATIONS)
    has_judges = JUDGEMENTS.name in record["tables"]
    judgements = _read_judgements(run_path, answers) if has_judges else None
    folder = run_path / FOLDER if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    digest = record["tables"][GENERATIONS.name]["sha256"]
    ended = datetime.fromtimestamp(_file(run_path).stat().st_mtime, UTC).replace(microsecond=0)
    exits = sorted(answers["exit"].unique().tolist())
    for exit_layer in exits:
        at_exit = answers[answers["exit"] == exit_layer]
        scores = _scores(at_exit, judgements, exit_layer)
        log = to_log(record, prompts, at_exit, scores, exit_layer, ended)
        name = hashlib.sha256(f"{digest} {exit_layer}".encode()).hexdigest()[:22]
        stamp = ended.isoformat().replace(":", "-").replace("+", "-")
        file = folder / f"{stamp}_{TASK}-exit-{exit_layer}_{name}.eval"
        atomic_write(file, partial(write_eval_log, log, format="eval"))
    return folder, len(exits)


def _read_judgements(run_path: Path, answers: pd.DataFrame) -> pd.DataFrame:
    """What other judges saw in these answers."""
    judgements = read_frame(run_path, JUDGEMENTS)
    of_answers, of_judgements = (pd.MultiIndex.from_frame(f[_KEY]) for f in (answers, judgements))
    is_outcome = judgements["outcome"].isin([*map(str, Outcome)])
    if not of_judgements.isin(of_answers).all() or not is_outcome.all():
        raise InputError(
            f"{run_path}: the table {JUDGEMENTS.name} has answers or outcomes that there are not: "
            "it is damaged, run the command again to another --out"
        )
    return judgements


def _file(run_path: Path) -> Path:
    return run_path / f"{GENERATIONS.name}.parquet"


def to_log(
    record: Mapping[str, Any],
    prompts: pd.DataFrame,
    answers: pd.DataFrame,
    scores: Mapping[tuple[str, int], dict[str, Score]],
    exit_layer: int,
    ended: datetime,
) -> EvalLog:
    """The log of one exit.

    Args:
        record: what run.json holds.
        prompts: the table of prompts, by their ids.
        answers: the rows of the table of answers at this exit.
        scores: of each prompt and sample, by the judge's name.
        exit_layer: the exit.
        ended: when the run was finished.
    """
    settings, provenance = record["settings"], record["facts"]
    model = f"jaxdepth/{provenance['model']}"
    arguments = {"exit": exit_layer, "adapter": provenance.get("adapter")}
    arguments |= {"dtype": settings.get("dtype"), "int8": settings.get("int8") or None}
    samples = [
        _sample(row, prompts.loc[row["prompt_id"]], scores[row["prompt_id"], row["sample"]], model)
        for row in answers.to_dict("records")
    ]
    by_name: dict[str, list[EvalSample]] = {}
    for sample in samples:  # a judge does not see an answer whose activations were not finite
        for name in sample.scores or {}:
            by_name.setdefault(name, []).append(sample)
    count = settings.get("samples", 1)
    spec = EvalSpec(
        created=ended.isoformat(),
        task=TASK,
        task_id=f"{TASK}-exit-{exit_layer}",
        dataset=EvalDataset(
            name=", ".join(provenance.get("prompts") or sorted(set(prompts["source"]))),
            samples=len(prompts),
            sample_ids=list(dict.fromkeys(answers["prompt_id"])),
        ),
        model=model,
        model_args={name: value for name, value in arguments.items() if value is not None},
        model_generate_config=_config(settings),
        config=EvalConfig(epochs=count),
        packages={n: record["versions"][n] for n in _PACKAGES if n in record["versions"]},
        metadata={"exit": exit_layer, "settings": dict(settings)},
    )
    return EvalLog(
        status="success",
        eval=spec,
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[_eval_score(name, of_name) for name, of_name in by_name.items()],
        ),
        stats=EvalStats(completed_at=ended.isoformat()),
        samples=samples,
    )


def _config(settings: Mapping[str, Any]) -> GenerateConfig:
    return GenerateConfig(
        max_tokens=settings.get("max_new_tokens"),
        temperature=settings.get("temperature"),
        top_k=settings.get("top_k"),
        top_p=settings.get("top_p"),
        seed=settings.get("seed"),
        stop_seqs=list(settings.get("stop") or ()) or None,
    )


def _sample(
    row: Mapping[str, Any], prompt: pd.Series, scores: dict[str, Score], model: str
) -> EvalSample:
    user = ChatMessageUser(content=prompt["text"], source="input")
    text = _known(row.get("text"))
    # Not as usage: the run does not say how many tokens the prompt has.
    output = ModelOutput(model=model, metadata={"tokens": _known(row.get("n_tokens"))})
    messages: list = [user]
    if text is not None:  # texts of the run are kept
        reply = ChatMessageAssistant(content=text, model=model, source="generate")
        reason = _REASONS.get(row["ended"], "unknown")
        output.choices = [ChatCompletionChoice(message=reply, stop_reason=reason)]
        output.completion = text
        messages.append(reply)
    metadata = {name: _known(prompt.get(name)) for name in ("label", "category", "pair_id")}
    return EvalSample(
        id=row["prompt_id"],
        epoch=int(row["sample"]) + 1,
        input=prompt["text"],
        target="",
        messages=messages,
        output=output,
        scores=scores,
        metadata={name: value for name, value in metadata.items() if value is not None},
    )


def _scores(
    answers: pd.DataFrame, judgements: pd.DataFrame | None, exit_layer: int
) -> dict[tuple[str, int], dict[str, Score]]:
    """The outcomes of each prompt and sample at an exit: those of the run, and of each judge."""
    scores: dict[tuple[str, int], dict[str, Score]] = {}
    for row in answers.to_dict("records"):
        numbers = {name: _known(row.get(name)) for name in _NUMBERS}
        scores[row["prompt_id"], row["sample"]] = {
            OUTCOME: Score(
                value=row["outcome"],
                answer=_known(row.get("text")),
                metadata={name: value for name, value in numbers.items() if value is not None},
            )
        }
    if judgements is not None:
        for row in judgements[judgements["exit"] == exit_layer].to_dict("records"):
            verdict = _known(row["verdict"])
            scores[row["prompt_id"], row["sample"]][f"{OUTCOME} ({row['judge']})"] = Score(
                value=row["outcome"],
                explanation=None if verdict is None else f"verdict: {verdict}",
                metadata={"judge": row["judge"], "identity": row["identity"]},
            )
    return scores


def _eval_score(name: str, samples: list[EvalSample]) -> EvalScore:
    """The share of each outcome among the answers to prompts of each label."""
    by_label: dict[str, list[str]] = {}
    for sample in samples:
        outcome = str((sample.scores or {})[name].value)
        by_label.setdefault(sample.metadata.get("label", "all"), []).append(outcome)
    metrics = {
        f"{label} {outcome}": EvalMetric(
            name=str(outcome), group=label, value=outcomes.count(str(outcome)) / len(outcomes)
        )
        for label, outcomes in sorted(by_label.items())
        for outcome in Outcome
    }
    return EvalScore(name=name, scorer=OUTCOME, scored_samples=len(samples), metrics=metrics)


def _known(value: Any) -> Any:
    """A cell of a table; None where it is null."""
    return None if pd.isna(value) else value
