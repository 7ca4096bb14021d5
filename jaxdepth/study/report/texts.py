"""The answers of a run for reading: made harmless, cut to a budget, compressed in chunks.

A chunk is JSON in gzip in base64; the page opens it when a prompt of it is read. Texts never pass
through HTML: the page puts them into text nodes.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxdepth.prompts.prompt import Prompt
from jaxdepth.study.labelling.answers import item_id
from jaxdepth.study.labelling.spreadsheet import guard
from jaxdepth.study.report.cells import Cells
from jaxdepth.study.report.safe_text import tame, tame_name

BUDGET = 18_000_000  # characters of all texts of a page together
MAX_PACKED = 13_000_000  # characters of all chunks of a page together, compressed
_ROUNDS = 4  # of cutting more: what compresses badly is cut in one
ROWS = 40  # of a chunk
_SCORES = (
    ("score", "sure {:.0%}"),
    ("refusal_score", "refusal {:.2f}"),
    ("topicality", "to the point {:.2f}"),
    ("repetition", "repeats {:.2f}"),
    ("p_refuse", "P(refuse) {:.2f}"),
    ("p_partial", "P(partial) {:.2f}"),
    ("p_comply", "P(comply) {:.2f}"),
    ("mean_layers", "{:.1f} layers"),
    ("n_tokens", "{:.0f} tokens"),
    ("thought_tokens", "thought of {:.0f} tokens"),
)


@dataclass(frozen=True)
class Packed:
    """The chunks of each run, and to how many characters texts were cut; None: they are whole."""

    chunks: list[list[str]]
    longest: int | None


def pack_texts(
    all_cells: Sequence[Cells],
    with_text: bool = True,
    budget: int = BUDGET,
    max_packed: int = MAX_PACKED,
) -> Packed:
    """The answers of some runs, all cut to one length so that they fit into a page.

    Args:
        all_cells: the answers of each run.
        with_text: whether prompts and answers are kept; scores always are.
        budget: characters of all texts together.
        max_packed: characters of all chunks, which texts of many letters reach sooner.
    """
    longest = longest_kept(all_cells, budget) if with_text else None
    for _ in range(_ROUNDS):
        chunks = [list(chunks_of(cells, longest, with_text)) for cells in all_cells]
        size = sum(len(chunk) for of_run in chunks for chunk in of_run)
        if size <= max_packed or not with_text:
            break
        budget = min(budget, int(_lengths(all_cells).sum()))
        budget = int(0.97 * budget * max_packed / size)
        longest = longest_kept(all_cells, budget)
    return Packed(chunks, longest)


def longest_kept(all_cells: Sequence[Cells], budget: int = BUDGET) -> int | None:
    """To how many characters texts are cut so that all fit a budget; None where they fit whole."""
    length_X = _lengths(all_cells)
    if length_X.sum() <= budget:
        return None
    low, high = 0, int(length_X.max())
    while high - low > 1:
        middle = (low + high) // 2
        if np.minimum(length_X, middle).sum() <= budget:
            low = middle
        else:
            high = middle
    return low


def _lengths(all_cells: Sequence[Cells]) -> Float[np.ndarray, " X"]:
    """The characters of each text."""
    lengths = [
        cells.answers[name].dropna().str.len().to_numpy()
        for cells in all_cells
        for name in ("text", "thought")
        if name in cells.answers
    ]
    return np.concatenate([np.zeros(1), *lengths]).astype(float)


def chunks_of(cells: Cells, longest: int | None, with_text: bool = True) -> Iterator[str]:
    """The chunks of a run, each of `ROWS` rows of the grid."""
    notes = _notes(cells.answers)
    others = _others(cells)
    answers = cells.answers.assign(notes=notes)
    by_row = {key: rows for key, rows in answers.groupby(level=["prompt_id", "sample"], sort=False)}
    for start in range(0, len(cells.rows), ROWS):
        content = []
        for prompt_id, sample in cells.rows[start : start + ROWS]:
            rows = by_row[prompt_id, sample].droplevel(["prompt_id", "sample"])
            rows = rows[~rows.index.duplicated()].reindex(cells.columns)
            entry: dict = {"notes": _listed(rows["notes"])}
            if (prompt_id, sample) in others:
                entry["others"] = others[prompt_id, sample]
            if with_text:
                entry["prompt"] = tame(_whole_prompt(cells.run.asked[prompt_id]))
                entry["texts"] = _listed(rows["text"], longest)
                if "thought" in rows:
                    entry["thoughts"] = _listed(rows["thought"], longest)
            content.append(entry)
        yield pack(content)


def pack(content: Any) -> str:
    """JSON, compressed and in base64; the same content gives the same text."""
    raw = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode()


def unpack(packed: str) -> Any:
    """What `pack` packed."""
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def label_rows(all_cells: Sequence[Cells]) -> dict[str, list[str]]:
    """The texts of samples that were drawn to be labelled, as `jaxdepth label --import` takes them.

    By run, row and column of the grid (`0.12.3`): id, prompt and text, as cells of the file.
    """
    found: dict[str, list[str]] = {}
    for number, cells in enumerate(all_cells):
        if cells.sample is None:
            continue
        place_of_row = {row: place for place, row in enumerate(cells.rows)}
        place_of_column = {name: place for place, name in enumerate(cells.columns)}
        texts = cells.answers["text"]
        for prompt_id, column, sample in cells.sample:
            prompt, text = cells.run.asked[prompt_id].asked, texts[prompt_id, column, sample]
            key = f"{number}.{place_of_row[prompt_id, sample]}.{place_of_column[column]}"
            found[key] = [item_id(prompt, text), guard(prompt), guard(text)]
    return found


def _whole_prompt(prompt: Prompt) -> str:
    """All that a model was given, for a reader."""
    parts = [] if prompt.system is None else [f"system: {prompt.system}"]
    parts.append(prompt.asked if prompt.earlier or not parts else f"user: {prompt.text}")
    if prompt.prefill:
        parts.append(f"given start of the reply: {prompt.prefill}")
    return "\n\n".join(parts)


def _notes(answers: pd.DataFrame) -> pd.Series:
    """The scores of each answer in words."""
    parts = pd.Series("", answers.index)
    if "verdict" in answers:
        parts = parts + "verdict " + answers["verdict"].fillna("none") + " · "
    for name, spec in _SCORES:
        if name in answers:
            words = answers[name].map(lambda v, s=spec: "" if pd.isna(v) else f"{s.format(v)} · ")
            parts = parts + words
    return parts.str.removesuffix(" · ")


def _others(cells: Cells) -> dict[tuple[str, int], dict[str, list[str]]]:
    """What other judges saw, by row and column."""
    found: dict[tuple[str, int], dict[str, list[str]]] = {}
    frame = cells.other_judges.reset_index() if len(cells.other_judges) else pd.DataFrame()
    for row in frame.itertuples(index=False):
        words = f"{tame_name(row.judge)}: {tame_name(row.outcome)}"
        by_column = found.setdefault((row.prompt_id, int(row.sample)), {})
        by_column.setdefault(tame_name(row.column), []).append(words)
    return found


def _listed(values: pd.Series, longest: int | None = None) -> list[str | None]:
    """Texts in the order of the columns, made harmless; None where there is none."""
    return [None if pd.isna(v) else _tame_start(v, longest) for v in values]


def _tame_start(text: str, longest: int | None) -> str:
    """A text made harmless, cut where it is longer than allowed."""
    is_cut = longest is not None and len(text) > longest
    return f"{tame(text[:longest])} …" if is_cut else tame(text)
