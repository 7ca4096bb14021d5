"""The verdicts of a finished run as arrays over prompts and exits, by how they were reached."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError
from jaxdepth.refusal.deliberate import ABSTAINS, Rule
from jaxdepth.refusal.protocol import VERDICTS
from jaxdepth.refusal.votes import RULES, vote
from jaxdepth.study.common_tables import check_once, prompt_rows
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.tables import Table
from jaxdepth.study.verdicts.tables import (
    CUTS,
    SERIES,
    SWAPPED,
    VERDICT_NAMES,
    VERDICT_TABLE,
    VOTES,
)

P_COLUMNS = [f"p_{name}" for name in VERDICTS]


@dataclass(frozen=True)
class SourceVerdicts:
    """The verdicts of one source: one for each prompt and exit."""

    verdict_NE: Int[np.ndarray, "N E"]  # 0 to 2 as `VERDICTS`, 3 abstains, -1 where there is none
    p_NE3: Float[np.ndarray, "N E 3"]
    mass_NE: Float[np.ndarray, "N E"]  # probability of the three verdict words; NaN for votes

    @property
    def present_NE(self) -> Bool[np.ndarray, "N E"]:
        return self.verdict_NE >= 0

    @property
    def cast_NE(self) -> Bool[np.ndarray, "N E"]:
        """Where there is a verdict that does not abstain."""
        return self.present_NE & (self.verdict_NE != ABSTAINS)

    @property
    def cautious_NE(self) -> Bool[np.ndarray, "N E"]:
        """Where the verdict is refuse or partial."""
        return self.present_NE & (self.verdict_NE <= 1)

    @property
    def p_caution_NE(self) -> Float[np.ndarray, "N E"]:
        """P(refuse) + P(partial)."""
        return self.p_NE3[..., :2].sum(axis=-1)

    @property
    def margin_NE(self) -> Float[np.ndarray, "N E"]:
        """The lead of the most probable verdict over the second."""
        ordered = np.sort(self.p_NE3, axis=-1)
        return ordered[..., 2] - ordered[..., 1]

    def right(self, harmful_N: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, "N E"]:
        """Where the verdict is right: cautious on a harmful prompt, comply on a harmless one."""
        return self.cast_NE & (self.cautious_NE == harmful_N[:, None])


class RunVerdicts:
    """The verdict tables of a run, and their verdicts by source."""

    def __init__(self, run: Run):
        settings = run.record["settings"]
        self.run = run
        self.exits: list[int] = settings["exits"]
        self.rule = Rule(
            settings["verdict_temperature"],
            settings["refuse_from"],
            settings["caution_from"],
            settings["abstain_below"],
        )
        prompts = prompt_rows(run.path).reset_index()
        self.prompt_ids = pd.Index(prompts["prompt_id"])
        self.harmful_N = (prompts["label"] == "harmful").to_numpy()
        self.clusters_N = prompts["pair_id"].fillna(prompts["prompt_id"]).tolist()

    def first_votes(self, table: Table) -> pd.DataFrame:
        """The rows of the first votes in a table; none where the run has no such table."""
        if not self.run.finished(table.name):
            return table.empty().to_pandas()
        frame = self._read(table)
        return frame[frame["vote"] == 0]

    def _read(self, table: Table) -> pd.DataFrame:
        """A table whose verdicts, prompts and exits are those that there are."""
        frame = read_frame(self.run.path, table)
        is_known = frame["prompt_id"].isin(self.prompt_ids) & frame["exit"].isin(self.exits)
        if "verdict" in frame:
            is_known &= frame["verdict"].isna() | frame["verdict"].isin(VERDICT_NAMES)
        if not is_known.all():
            raise InputError(
                f"{self.run.path}: the table {table.name} has a verdict, prompt or exit that the "
                "run has not: it is damaged, run the command again to another --out"
            )
        return frame

    def indices(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """The indices of rows in arrays (N, E)."""
        e = pd.Index(self.exits).get_indexer(frame["exit"])
        return self.prompt_ids.get_indexer(frame["prompt_id"]), e

    def to_arrays(self, frame: pd.DataFrame) -> SourceVerdicts:
        """Rows as arrays, at most one row for each prompt and exit."""
        check_once(frame, ["prompt_id", "exit"], f"{self.run.path}: a table of verdicts")
        shape, index = (len(self.prompt_ids), len(self.exits)), self.indices(frame)
        verdict_NE = np.full(shape, -1)
        p_NE3, mass_NE = np.full((*shape, 3), np.nan), np.full(shape, np.nan)
        verdict_NE[index] = [
            -1 if pd.isna(name) else VERDICT_NAMES.index(name) for name in frame["verdict"]
        ]
        p_NE3[index] = frame[P_COLUMNS]
        if "label_mass" in frame:
            mass_NE[index] = frame["label_mass"]
        return SourceVerdicts(verdict_NE, p_NE3, mass_NE)

    @cached_property
    def votes(self) -> pd.DataFrame:
        """The votes table: every rule over the first votes of each prompt and exit.

        Votes without a verdict, whose activations were NaN or infinite, are none.
        """
        verdicts = self._read(VERDICT_TABLE).sort_values("vote", kind="stable")
        check_once(verdicts, ["prompt_id", "exit", "vote"], f"{self.run.path}: the table verdicts")
        verdicts = verdicts[verdicts["verdict"].notna()].fillna({"answer_tokens": 0})
        before_answer = len(self.run.record["facts"]["markers"]["close"]) + 1
        rows = []
        for (prompt_id, exit_layer), votes in verdicts.groupby(["prompt_id", "exit"], sort=False):
            p_M3 = votes[P_COLUMNS].to_numpy(float)
            verdict_M = np.array([VERDICT_NAMES.index(name) for name in votes["verdict"]])
            tokens_M = votes["thought_tokens"] + before_answer + votes["answer_tokens"]
            for count, tokens in enumerate(tokens_M.cumsum(), start=1):
                for by in RULES:
                    joint = vote(p_M3[:count], verdict_M[:count], by, self.rule)
                    rows.append(
                        {
                            "prompt_id": prompt_id,
                            "exit": exit_layer,
                            "rule": by,
                            "votes": count,
                            **dict(zip(P_COLUMNS, joint.p.tolist(), strict=True)),
                            "verdict": VERDICT_NAMES[joint.verdict],
                            "agreement": joint.agreement,
                            "tokens": tokens,
                        }
                    )
        return pd.DataFrame(rows, columns=VOTES.schema.names)

    @cached_property
    def sources(self) -> dict[str, SourceVerdicts]:
        """Every way in which verdicts were reached, by the name that the scores table has."""
        first = self.first_votes(VERDICT_TABLE)
        sources = {"thought": self.to_arrays(first)}
        for cut, rows in self.first_votes(CUTS).groupby("cut"):
            sources[f"cut {cut}"] = self.to_arrays(rows)
        if self.run.finished(SWAPPED.name):
            sources["swapped"] = self.to_arrays(self.first_votes(SWAPPED))
        if self.run.finished(SERIES.name):
            # Without a second verdict the first one stays.
            both = pd.concat([first, self.first_votes(SERIES)])
            final = both.drop_duplicates(["prompt_id", "exit"], keep="last")
            sources["series"] = self.to_arrays(final)
        if self.votes["votes"].max() > 1:
            for by in RULES:
                for count, rows in self.votes[self.votes["rule"] == by].groupby("votes"):
                    sources[f"{by} of {count}"] = self.to_arrays(rows)
        return sources
