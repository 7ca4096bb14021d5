"""Settings of studies for tests, rows of their tables, and verdict words of any tokenizer."""

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.settings_file import build


def settings_of(cls, model, out, **values):
    """Settings of a command for a model and a run directory."""
    return build(cls, {"model": model, "out": out, **values})


def as_outcomes(outcome_MNE: Shaped[np.ndarray, "M N E"]) -> tuple[np.ndarray, ...]:
    """Outcomes of models with one seed and one sample each, as `Compared` takes them."""
    return tuple(outcome_NE[None, :, None] for outcome_NE in outcome_MNE)


def records(rows: pd.DataFrame) -> list[dict]:
    """The rows of `against` as dictionaries; the layer of a mean is None."""
    rows = rows.astype({"layer": object})
    return rows.where(rows["layer"].notna(), rows.assign(layer=None)).to_dict("records")


def words_of(encoder: PromptEncoder, count: int = 3) -> tuple[str, ...]:
    """Words that are one token after "Verdict:"."""
    some = ("how", "the", "to", "a", "I", "of", "do", "my", "in", "is", "for", "can")
    result = [word for word in some if encoder.word_after("\nVerdict:", word) is not None]
    assert len(result) >= count
    return tuple(result[:count])
