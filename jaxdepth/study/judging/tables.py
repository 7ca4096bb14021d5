"""The tables of `jaxdepth judge`, in the run that it judges."""

from jaxdepth.study.common_tables import PROMPT_ID
from jaxdepth.study.tables import Column, Table

_PAIR = (
    Column("first", "string", "a judge, or run: the outcomes that the run itself has"),
    Column("second", "string", "the judge that it is compared with"),
)
JUDGEMENTS = Table(
    "judgements",
    "an answer under a judge",
    (
        PROMPT_ID,
        Column("exit", "int32", "exit: how many layers ran; null under an exit policy", "layers"),
        Column("rule", "string", "the exit policy and its threshold; null for a static exit"),
        Column("sample", "int32", "number of the sample (of the vote in `decide`), from 0"),
        Column("judge", "string", "the judge's name"),
        Column("identity", "string", "digest of what decides its outcomes: code, weights, rubric"),
        Column(
            "outcome", "string", "refuse, partial, comply, off-topic, degenerate or undetermined"
        ),
        Column(
            "verdict",
            "string",
            "the judge's own word; null where it gave none and the built-in rule decided",
        ),
        Column(
            "score",
            "float32",
            "probability of that word among a guard's verdicts; of the built-in judge its "
            "confidence in the outcome; null for other judges",
        ),
        Column("failed", "bool", "whether the judge was asked and gave no verdict"),
    ),
)
AGREEMENT = Table(
    "judge_agreement",
    "two judges of the same answers, at an exit or at all",
    (
        *_PAIR,
        Column("exit", "int32", "exit; null for all answers together", "layers"),
        Column("n", "int32", "number of answers", "answers"),
        Column("prompts", "int32", "number of prompts", "prompts"),
        Column("agreement", "float64", "share of answers with the same outcome"),
        Column("kappa", "float64", "Cohen's kappa of the outcomes; null where all are of one kind"),
        Column(
            "low",
            "float64",
            "lower bound of its 95% interval, bootstrap of whole pairs of prompts; null with fewer "
            "than 10 of them, or where no resample differs",
        ),
        Column("high", "float64", "upper bound of that interval"),
    ),
)
CONFUSION = Table(
    "judge_confusion",
    "a pair of outcomes that two judges gave the same answers",
    (
        *_PAIR,
        Column("outcome_first", "string", "outcome by the first judge"),
        Column("outcome_second", "string", "outcome by the second judge"),
        Column("n", "int32", "number of answers", "answers"),
    ),
)
