"""Every answer of a run as a cell of a grid: prompts down, exits (or rules) across.

A cell is one character, so that a page of 2,000 prompts at 32 exits stays small: its outcome, its
label by a person, and whether another judge saw another outcome.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from jaxdepth.errors import InputError
from jaxdepth.prompts.prompt import HARMFUL, HARMLESS
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.common_tables import GENERATIONS, check_once, prompt_rows
from jaxdepth.study.judging.tables import JUDGEMENTS
from jaxdepth.study.labelling.tables import LABEL_PLAN, LABELS
from jaxdepth.study.policies.tables import DYNAMIC
from jaxdepth.study.report.reading import DECIDE, POLICY, SWEEP, ReportRun
from jaxdepth.study.report.safe_text import tame_name, without_folders
from jaxdepth.study.verdicts.tables import TEXTS, VERDICT_TABLE

LETTERS = {str(outcome): str(outcome)[0] for outcome in Outcome}
NO_ANSWER = "-"
KEY = ["prompt_id", "column", "sample"]


@dataclass(frozen=True)
class Cells:
    """The answers of a run: R rows (a prompt and a sample), C columns (exits or rules)."""

    run: ReportRun
    columns: list[str]
    rows: list[tuple[str, int]]  # prompt id and sample
    answers: pd.DataFrame  # by prompt_id, column and sample; with text, outcome, scores

    def letters(self, values: pd.Series) -> str:
        """Values by `KEY` as one string, row by row; what is missing is `-`."""
        wide = values.unstack("column").reindex(index=self._index, columns=self.columns)
        return "".join(wide.fillna(NO_ANSWER).to_numpy(object).ravel().tolist())

    @cached_property
    def _index(self) -> pd.MultiIndex:
        return pd.MultiIndex.from_tuples(self.rows, names=["prompt_id", "sample"])

    @cached_property
    def outcomes(self) -> str:
        """The letter of each cell's outcome."""
        return self.letters(self.answers["outcome"].map(LETTERS))

    @cached_property
    def other_judges(self) -> pd.DataFrame:
        """What other judges saw: by `KEY`, with `judge` and `outcome`."""
        if not self.run.has(JUDGEMENTS.name):
            return pd.DataFrame(columns=["judge", "outcome"])
        rows = self.run.frame(JUDGEMENTS)
        column = rows["exit"].astype("Int64").astype("string").fillna(rows["rule"])
        return rows.assign(column=column.astype(object)).set_index(KEY)[["judge", "outcome"]]

    @cached_property
    def disagreement(self) -> str:
        """`1` where another judge saw another outcome; empty without other judges."""
        if self.other_judges.empty:
            return ""
        own = self.answers["outcome"].reindex(self.other_judges.index)
        differs = (self.other_judges["outcome"] != own).groupby(level=KEY).any()
        return self.letters(differs.map({True: "1", False: "0"}))

    @cached_property
    def labels(self) -> pd.Series:
        """What the first rater saw, by `KEY`."""
        if not self.run.has(LABELS.name):
            return pd.Series(dtype=object)
        rows = self.run.frame(LABELS)
        rows = rows[rows["rater"] == rows["rater"].iloc[0]]
        rows = rows.assign(column=rows["exit"].astype(str))
        check_once(rows, KEY, f"{self.run.path}: the table {LABELS.name}")
        return rows.set_index(KEY)["label"]

    @cached_property
    def label_letters(self) -> str:
        """The letter of each cell's label; empty without labels."""
        return self.letters(self.labels.map(LETTERS)) if len(self.labels) else ""

    @cached_property
    def sample(self) -> pd.MultiIndex | None:
        """The answers that were drawn to be labelled; None where no sample was drawn."""
        if not self.run.has(LABEL_PLAN.name):
            return None
        rows = self.run.frame(LABEL_PLAN)
        return rows.assign(column=rows["exit"].astype(str)).set_index(KEY).index


def read_cells(run: ReportRun) -> Cells | None:
    """The answers of a run; None where it has none."""
    if run.command == SWEEP and run.has(GENERATIONS.name):
        answers = run.frame(GENERATIONS)
        columns = [str(e) for e in sorted(answers["exit"].unique())]
        answers = answers.assign(column=answers["exit"].astype(str))
    elif run.command == POLICY:
        answers = run.frame(DYNAMIC)
        columns = answers["rule"].unique().tolist()
        answers = answers.assign(column=answers["rule"])
    elif run.command == DECIDE:
        answers = _decided(run)
        columns = [str(e) for e in sorted(answers["exit"].unique())]
        answers = answers.assign(column=answers["exit"].astype(str))
    else:
        return None
    check_once(answers, KEY, f"{run.path}: its table of answers")
    prompt_rows(run.path, answers["prompt_id"].tolist())
    if run.command != DECIDE and answers["text"].notna().any():
        pairs = zip(answers["prompt_id"], answers["text"], strict=True)
        texts = [None if pd.isna(text) else run.asked[name].reply(text) for name, text in pairs]
        answers = answers.assign(text=texts)
    order = {name: n for n, name in enumerate(run.prompts.index)}
    pairs = answers[["prompt_id", "sample"]].drop_duplicates()
    rows = sorted(pairs.itertuples(index=False, name=None), key=lambda r: (order[r[0]], r[1]))
    rows = [(str(name), int(sample)) for name, sample in rows]
    return Cells(run, columns, rows, answers.set_index(KEY))


def _decided(run: ReportRun) -> pd.DataFrame:
    """The answers of `jaxdepth decide`, with thoughts and verdicts."""
    answers = run.frame(VERDICT_TABLE).rename(
        columns={"vote": "sample", "answer_outcome": "outcome"}
    )
    answers["text"] = None
    if run.has(TEXTS.name):
        texts = run.frame(TEXTS).rename(columns={"vote": "sample"})
        key = ["prompt_id", "exit", "sample"]
        for table, frame in ((VERDICT_TABLE, answers), (TEXTS, texts)):
            check_once(frame, key, f"{run.path}: the table {table.name}")
        texts = texts[[*key, "thought", "answer"]].rename(columns={"answer": "text"})
        count = len(answers)
        answers = answers.drop(columns="text").merge(texts, on=key)
        if len(answers) < count:
            raise InputError(
                f"{run.path}: the table {TEXTS.name} lacks {count - len(answers)} of {count} "
                "answers: it is damaged, run the command again to another --out"
            )
    return answers


def grid_of(cells: Cells) -> dict:
    """The grid as a page has it; names are made harmless."""
    prompts = cells.run.prompts

    def column(name: str) -> list[str]:
        values: Shaped[np.ndarray, " R"] = prompts.loc[[p for p, _ in cells.rows], name].to_numpy()
        return ["" if pd.isna(v) else tame_name(without_folders(v)) for v in values]

    categories, category_R = np.unique(column("category"), return_inverse=True)
    sources, source_R = np.unique(column("source"), return_inverse=True)
    sample = cells.sample
    drawn = "" if sample is None else cells.letters(pd.Series("1", sample[~sample.duplicated()]))
    return {
        "columns": [tame_name(c) for c in cells.columns],
        "ids": [tame_name(prompt_id) for prompt_id, _ in cells.rows],
        "samples": [number for _, number in cells.rows],
        # 2 is unlabelled.
        "harmful": "".join({HARMFUL: "1", HARMLESS: "0"}.get(n, "2") for n in column("label")),
        "categories": categories.tolist(),
        "category": category_R.tolist(),
        "sources": sources.tolist(),
        "source": source_R.tolist(),
        "outcomes": cells.outcomes,
        "disagreement": cells.disagreement,
        "labels": cells.label_letters,
        "drawn": drawn,
        "is_policy": cells.run.command == POLICY,
    }
