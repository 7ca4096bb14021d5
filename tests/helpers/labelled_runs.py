"""Runs with answers but without a model, and readers who label them."""

from pathlib import Path

import numpy as np

from jaxdepth.study.common_tables import FIRST_TOKEN, GENERATIONS, PROMPTS
from jaxdepth.study.labelling.answers import read_answers
from jaxdepth.study.labelling.run import open_session
from jaxdepth.study.labelling.session import Session
from jaxdepth.study.labelling.settings import Label
from jaxdepth.study.run_directory import Run

OUTCOMES = ("refuse", "comply", "degenerate")
FIRST = {"refusal_log_odds": 0.0, "agrees_with_full": True, "kl_to_full": 0.0}


def prompt_rows(pairs: int, label_of_source: str = "set") -> list[dict]:
    """Pairs of a harmful and a harmless prompt."""
    return [
        {
            "prompt_id": f"p{number:03d}-{label}",
            "text": f"Prompt {number}, {label}?",
            "label": label,
            "category": None,
            "pair_id": f"p{number:03d}",
            "source": label_of_source,
        }
        for number in range(pairs)
        for label in ("harmful", "harmless")
    ]


def write_run(
    path: Path, pairs: int = 30, exits=(1, 2, 3, 4), depth: int = 4, seed: int = 0, text=None
) -> Path:
    """A finished sweep of outcomes at random; `text` makes the text of an answer from its row."""
    rng = np.random.default_rng(seed)
    run = Run.open(path, {"command": "sweep", "seed": 0, "judge": "x"}, {"depth": depth})
    prompts = prompt_rows(pairs)
    rows = []
    for prompt in prompts:
        for exit_layer in exits:
            row = {"prompt_id": prompt["prompt_id"], "exit": exit_layer, "sample": 0}
            row["outcome"] = OUTCOMES[rng.choice(3, p=(0.3, 0.4, 0.3))]
            row["text"] = f"{path.name} {row['prompt_id']} {exit_layer} {row['outcome']}"
            rows.append(row | ({"text": text(row)} if text else {}))
    run.write_table(PROMPTS.name, PROMPTS.from_rows(prompts))
    run.write_table(GENERATIONS.name, GENERATIONS.from_rows(rows))
    first = [{k: row[k] for k in ("prompt_id", "exit")} | FIRST for row in rows]
    run.write_table(FIRST_TOKEN.name, FIRST_TOKEN.from_rows(first))
    return path


def session_of(*paths: Path, rater: str = "ann", n: int = 60, **settings) -> Session:
    """The session of a rater over some runs."""
    return open_session(Label(runs=paths, rater=rater, n=n, **settings))[1]


def truths(path: Path, seed: int = 0) -> dict[str, str]:
    """What a careful reader says of each text of a run: half of what complies is off-topic."""
    rng = np.random.default_rng(seed)
    answers = read_answers(path)
    is_off_X = (answers["outcome"] == "comply") & (rng.random(len(answers)) < 0.5)
    return dict(zip(answers["text"], answers["outcome"].mask(is_off_X, "off-topic"), strict=True))


def label_all(session: Session, truth: dict[str, str], count: int | None = None) -> None:
    """Label the first texts of a session by the truth."""
    session.set_labels({item.item_id: truth[item.text] for item in session.items[:count]})
