"""Studies as functions: `jaxdepth.sweep`, `decide` and `probe` return a run.

Settings are those of the commands, by their names in Python: `--max-new-tokens 24` becomes
`max_new_tokens=24`. Paths may be strings, and one string stands for a list of one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from jaxdepth.errors import InputError
from jaxdepth.model import AnyArray, FastTokenizer
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import to_host
from jaxdepth.probing.capture import residuals
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.outcome import Judge
from jaxdepth.runtime.lock import hold_folder
from jaxdepth.runtime.progress import progress_bar, silent
from jaxdepth.settings_file import build
from jaxdepth.study.judging.run import judge_run
from jaxdepth.study.judging.settings import Rejudge
from jaxdepth.study.policies.choice import write_policies
from jaxdepth.study.policies.figures import draw_policies
from jaxdepth.study.policies.rules import check_static
from jaxdepth.study.policies.run import sweep_policies
from jaxdepth.study.policies.settings import PolicySweep
from jaxdepth.study.prefills.figures import draw_prefills
from jaxdepth.study.prefills.run import sweep_prefills
from jaxdepth.study.prefills.settings import check_no_prefills, parse_lengths
from jaxdepth.study.probes.figures import draw_probes
from jaxdepth.study.probes.run import probe as run_probe
from jaxdepth.study.probes.settings import Probe
from jaxdepth.study.report.charts.choose import charts_of
from jaxdepth.study.report.compared import compare_runs
from jaxdepth.study.report.reading import read_runs
from jaxdepth.study.run_directory import read_record, read_table
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.figures import draw_sweep
from jaxdepth.study.sweep.rates import write_rates
from jaxdepth.study.sweep.run import sweep as run_sweep
from jaxdepth.study.verdicts.figures import draw_verdicts
from jaxdepth.study.verdicts.run import run_decide
from jaxdepth.study.verdicts.scores import write_verdicts
from jaxdepth.study.verdicts.settings import Decide

if TYPE_CHECKING:  # imported where a chart is made
    from plotly.graph_objects import Figure as PlotlyFigure

_DRAW: Mapping[str, Callable[[Path], dict[Path, str]]] = {
    "sweep": draw_sweep,
    "sweep --policy": draw_policies,
    "sweep --prefill-tokens": draw_prefills,
    "decide": draw_verdicts,
    "probe": draw_probes,
}


@dataclass(frozen=True)
class Figure:
    """A figure of a run; a notebook shows it."""

    path: Path  # PNG; the SVG has the same name
    caption: str

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class StudyRun:
    """A finished run: its tables as data frames, and its figures."""

    path: Path

    @property
    def settings(self) -> dict:
        """The resolved settings, as run.json has them."""
        return read_record(self.path)["settings"]

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the run's tables."""
        return tuple(read_record(self.path)["tables"])

    def frame(self, table: str) -> pd.DataFrame:
        """One table as a data frame.

        Raises:
            InputError: the run has no such finished table, or the table is damaged.
        """
        return read_table(self.path, table).to_pandas()

    def figures(self) -> list[Figure]:
        """Draw the figures of the run, and save them in its folder.

        Raises:
            InputError: a table is missing or damaged.
        """
        drawn = _DRAW[self.settings["command"]](self.path)
        return [Figure(path, caption) for path, caption in drawn.items()]

    def charts(self) -> "list[PlotlyFigure]":
        """The interactive charts of the run, as in `jaxdepth report`; a notebook shows them.

        Raises:
            InputError: a table is missing or damaged.
        """
        runs = read_runs([self.path])
        return [chart.figure() for chart in charts_of(runs, compare_runs(runs))]

    def judge(
        self,
        *judges: str | Judge,
        reference: str | Path | None = None,
        encoder: str | Path | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> "StudyRun":
        """Judge the answers that the run has kept, as `jaxdepth judge` does.

        The run gets the tables judgements, judge_agreement and judge_confusion.

        Args:
            judges: names as for `--judge`, such as `builtin`, and functions (see
                `classify_texts`).
            reference: a checkpoint by which the built-in rule reads answers, in place of the run's.
            encoder: a sentence encoder in place of the run's.
            seed: of bootstrap intervals.
            progress: whether to show a progress bar.

        Raises:
            InputError: the run keeps no texts, or a judge cannot be opened or fails.
        """
        names = [judge for judge in judges if isinstance(judge, str)]
        values = {"run": self.path, "judge": names, "reference": reference, "encoder": encoder}
        functions = [judge for judge in judges if not isinstance(judge, str)]
        settings = build(Rejudge, {**values, "seed": seed}, "judge")
        judge_run(settings, progress_bar if progress else silent, functions)
        return self


def open_run(path: str | Path) -> StudyRun:
    """A finished run of `jaxdepth sweep`, `decide` or `probe`.

    Raises:
        InputError: there is no such run, or it is damaged.
    """
    run = StudyRun(Path(path))
    if run.settings.get("command") not in _DRAW:
        raise InputError(f"{path} is no run of sweep, decide or probe")
    return run


def sweep(
    model: str | Path, *, judge: str | Judge | None = None, progress: bool = False, **settings
) -> StudyRun:
    """Run every prompt at every exit, as `jaxdepth sweep` does; resume an unfinished run.

    Args:
        model: a checkpoint made by `jaxdepth convert`.
        judge: judges the outcomes of answers in place of the built-in one: a function (see
            `classify_texts`), or a name as for `--judge`.
        progress: whether to show a progress bar.
        settings: see `jaxdepth sweep --help`, such as `prompts`, `exits`, `max_new_tokens`, `out`.

    Raises:
        InputError: something in the settings, the prompts or the checkpoint is wrong.
    """
    named, judge = _named(judge)
    given = build(PolicySweep, {"model": model, **named, **settings}, "sweep")
    bar, output = progress_bar if progress else silent, given.sweep.output
    with hold_folder(output.out):
        if given.policies.policy:
            check_no_prefills(given.prefills)
            run = sweep_policies(given, bar, judge)
            write_policies(run, output.seed)
        elif given.prefills.prefill_tokens is not None:
            check_static(given.policies)
            lengths = parse_lengths(given.prefills.prefill_tokens)
            run = sweep_prefills(given.sweep, lengths, bar, judge)
        else:
            check_static(given.policies)
            run = run_sweep(given.sweep, bar, judge)
            write_rates(run, depth_curves(run.path, output.seed), given.sweep.windows)
    return StudyRun(run.path)


def decide(
    model: str | Path, *, judge: str | Judge | None = None, progress: bool = False, **settings
) -> StudyRun:
    """Let every exit think, decide and answer, as `jaxdepth decide` does.

    Args:
        model: a checkpoint made by `jaxdepth convert`.
        judge: judges the outcomes of answers in place of the built-in one: a function (see
            `classify_texts`), or a name as for `--judge`.
        progress: whether to show a progress bar.
        settings: see `jaxdepth decide --help`.

    Raises:
        InputError: something in the settings, the protocol, the prompts or the checkpoint is wrong.
    """
    named, judge = _named(judge)
    given = build(Decide, {"model": model, **named, **settings}, "decide")
    with hold_folder(given.output.out):
        run = run_decide(given, progress_bar if progress else silent, judge)
        write_verdicts(run, given.output.seed)
    return StudyRun(run.path)


def _named(judge: str | Judge | None) -> tuple[dict[str, str], Judge | None]:
    """The setting that a judge's name is, and the judge if it is a function."""
    return ({"judge": judge}, None) if isinstance(judge, str) else ({}, judge)


def probe(model: str | Path, *, progress: bool = False, **settings) -> StudyRun:
    """Fit linear probes to every layer, as `jaxdepth probe` does.

    Args:
        model: a checkpoint made by `jaxdepth convert`.
        progress: whether to show a progress bar.
        settings: see `jaxdepth probe --help`.

    Raises:
        InputError: something in the settings, the prompts or the checkpoint is wrong.
    """
    given = build(Probe, {"model": model, **settings}, "probe")
    return StudyRun(run_probe(given, progress_bar if progress else silent).path)


def hidden_states(
    model: Mistral,
    tokenizer_or_tokens: FastTokenizer | Int[AnyArray, "B S"] | Sequence[Sequence[int]],
    texts: str | Sequence[str] | None = None,
    *,
    lengths: Sequence[int] | None = None,
    positions: int | Sequence[int] | Int[np.ndarray, "B P"] = -1,
    chat: bool = True,
) -> Float[np.ndarray, "B P J D"]:
    """The residual stream after every layer, at some positions, from one pass.

    Args:
        model: a model from `jaxdepth.load`.
        tokenizer_or_tokens: a transformers tokenizer, which encodes `texts`; or token ids (B, S),
            right-padded.
        texts: prompts for the tokenizer.
        lengths: the real length of each row of token ids; by default all of S.
        positions: positions in each sequence, the same for all or (B, P); negative ones count from
            the end of the sequence: -1 is its last token.
        chat: whether to encode texts in the chat template, as a user's message.

    Returns:
        Float32 of J = L + 1 layers: 0 is the embedding, d the stream after d layers, which exit d
        unembeds.

    Raises:
        InputError: a position lies beyond its sequence, or tokens do not fit the model.
    """
    if texts is None:
        tokens_BS = np.asarray(tokenizer_or_tokens)
        if tokens_BS.ndim != 2:
            raise InputError(f"tokens of shape {tokens_BS.shape}, expected (B, S)")
        lengths_B = np.full(len(tokens_BS), tokens_BS.shape[1]) if lengths is None else lengths
    else:
        encoder = PromptEncoder(tokenizer_or_tokens)
        encode = encoder.encode if chat else encoder.encode_text
        ids = [encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        lengths_B = [len(row) for row in ids]
        tokens_BS = np.zeros((len(ids), max(lengths_B)), np.int32)
        for row, tokens in zip(tokens_BS, ids, strict=True):
            row[: len(tokens)] = tokens
    lengths_B = np.asarray(lengths_B)
    positions_BP = np.asarray(positions)
    if positions_BP.ndim < 2:
        positions_BP = np.tile(np.atleast_1d(positions_BP), (len(lengths_B), 1))
    positions_BP = np.where(positions_BP < 0, positions_BP + lengths_B[:, None], positions_BP)
    return to_host(residuals(model, tokens_BS, lengths_B, positions_BP)).astype(np.float32)
