"""The texts to label, of all runs together, and the labels of one rater."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from jaxdepth.study.labelling.answers import KEY, item_id
from jaxdepth.study.labelling.raters import Rater, read_rater, save_rater


@dataclass(frozen=True)
class Item:
    """A text to label: all that a rater is shown."""

    item_id: str
    prompt: str
    text: str


@dataclass(frozen=True)
class LabelledRun:
    """A run, its answers and the sample of them."""

    path: Path
    answers: pd.DataFrame
    plan: pd.DataFrame


class Session:
    """One rater's labels of the samples of some runs; every change is saved at once.

    A text that several samples contain is labelled once, for all of them.
    """

    def __init__(self, runs: Sequence[LabelledRun], rater: str):
        self.runs = [run.path for run in runs]
        self._raters = {run.path: read_rater(run.path, rater) for run in runs}
        self._runs_of: dict[str, list[Path]] = {}
        placed: dict[str, tuple[int, str]] = {}
        items: dict[str, Item] = {}
        for run in runs:
            texts = run.plan.merge(run.answers[[*KEY, "prompt", "text"]], on=KEY)
            for row in texts.itertuples(index=False):
                name = item_id(row.prompt, row.text)
                items[name] = Item(name, row.prompt, row.text)
                placed[name] = min(placed.get(name, (row.position, name)), (row.position, name))
                paths = self._runs_of.setdefault(name, [])
                if run.path not in paths:
                    paths.append(run.path)
        # Runs take turns; within a place, names are digests and tell nothing of the run.
        self.items = [items[name] for name in sorted(items, key=placed.__getitem__)]
        # A label that the rater gave in one run holds in the others that have the text.
        labels = {item.item_id: self.label_of(item) for item in self.items}
        self.set_labels({name: label for name, label in labels.items() if label is not None})

    @property
    def labelled(self) -> int:
        """How many texts are labelled."""
        return sum(self.label_of(item) is not None for item in self.items)

    def label_of(self, item: Item) -> str | None:
        """The label of a text, or None."""
        labels = (
            self._raters[path].labels.get(item.item_id) for path in self._runs_of[item.item_id]
        )
        return next((label for label in labels if label is not None), None)

    def next_item(self) -> Item | None:
        """The first text without a label, or None."""
        return next((item for item in self.items if self.label_of(item) is None), None)

    def set_labels(self, labels: Mapping[str, str]) -> None:
        """Label texts by their ids, and save that, once a run; earlier labels are replaced."""
        for path, rater in self._raters.items():
            own = {name: x for name, x in labels.items() if path in self._runs_of[name]}
            if not own.items() <= rater.labels.items():
                self._write(path, replace(rater, labels={**rater.labels, **own}))

    def undo(self) -> Item | None:
        """Remove the label of the text before the next one, and save that; None at the start."""
        upcoming = self.next_item()
        before = self.items if upcoming is None else self.items[: self.items.index(upcoming)]
        if not before:
            return None
        for path in self._runs_of[before[-1].item_id]:
            rater = self._raters[path]
            labels = {name: x for name, x in rater.labels.items() if name != before[-1].item_id}
            self._write(path, replace(rater, labels=labels))
        return before[-1]

    def _write(self, path: Path, rater: Rater) -> None:
        save_rater(path, rater)
        self._raters[path] = rater
