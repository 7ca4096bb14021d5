"""The tables of `jaxdepth decide`."""

from jaxdepth.refusal.protocol import Verdict
from jaxdepth.study.common_tables import EXIT, PROMPT_ID
from jaxdepth.study.tables import Column, Table

VERDICT_NAMES = tuple(map(str, Verdict))  # by the number that `refusal.decide` gives a verdict

_LANE = (PROMPT_ID, EXIT, Column("vote", "int32", "number of the sampled thought, from 0"))
_PROBABILITIES = (
    Column("p_refuse", "float32", "probability of REFUSE among the three verdicts"),
    Column("p_partial", "float32", "probability of PARTIAL among the three verdicts"),
    Column("p_comply", "float32", "probability of COMPLY among the three verdicts"),
)
_VERDICT = Column(
    "verdict",
    "string",
    "refuse, partial or comply; abstain if the margin is too small; null, as its probabilities "
    "are, where NaN or infinity in the activations left none",
)
DECISION = (
    *_PROBABILITIES,
    Column("label_mass", "float32", "probability of the three verdict words among all tokens"),
    Column("margin", "float32", "probability of the most probable verdict minus the second"),
    _VERDICT,
)
_ANSWER_TOKENS = Column("answer_tokens", "int32", "length of the answer", "tokens")
_ANSWER_OUTCOME = Column(
    "answer_outcome",
    "string",
    "refuse, partial, comply, off-topic, degenerate or undetermined; null without an answer",
)
_NO_BOUNDS = (
    "NaN for the temperature, p-values and numbers of prompts, and where there are fewer than 10 "
    "pairs"
)
_ESTIMATE = (
    Column("n", "int32", "number of prompts", "prompts"),
    Column("value", "float64", "estimate of the metric"),
    Column("low", "float64", f"lower bound of its 95% interval; {_NO_BOUNDS}"),
    Column("high", "float64", f"upper bound of its 95% interval; {_NO_BOUNDS}"),
)
_SOURCE = Column(
    "source",
    "string",
    "how the verdict was reached: thought, cut N (after N tokens of the thought), swapped (after "
    "another prompt's thought), series (second pass), RULE of N (votes), or forced VERDICT",
)

VERDICT_TABLE = Table(
    "verdicts",
    "a sampled thought of a prompt at an exit",
    (
        *_LANE,
        *DECISION,
        Column("thought_tokens", "int32", "length of the thought", "tokens"),
        Column(
            "closed_by",
            "string",
            "what ended the thought: model, budget, or end (of reply); non-finite: NaN or infinity "
            "in the activations ended the thought, the verdict or the answer, and what is missing "
            "is null",
        ),
        _ANSWER_TOKENS,
        _ANSWER_OUTCOME,
    ),
)
TEXTS = Table(
    "texts",
    "a sampled thought of a prompt at an exit",
    (
        *_LANE,
        Column("thought", "string", "text of the thought"),
        Column("answer", "string", "text after the verdict"),
        Column("thought_ids", "list of int32", "token ids of the thought"),
    ),
)
CUTS = Table(
    "cuts",
    "a thought, truncated to its first tokens",
    (
        *_LANE,
        Column("cut", "int32", "length of the truncated thought", "tokens"),
        *DECISION,
    ),
)
FORCED = Table(
    "forced",
    "an answer after a verdict that was forced",
    (
        *_LANE,
        Column("forced", "string", "the forced verdict"),
        Column(
            "answer_outcome",
            "string",
            "refuse, partial, comply, off-topic, degenerate or undetermined; null where NaN or "
            "infinity in the activations left no answer",
        ),
    ),
)
SWAPPED = Table(
    "swapped",
    "a prompt at an exit, with the thought of another prompt",
    (*_LANE, Column("thought_of", "string", "the prompt that the thought is from"), *DECISION),
)
SERIES = Table(
    "series",
    "a second pass over a prompt at an exit whose verdict was PARTIAL",
    (*_LANE, *DECISION, _ANSWER_TOKENS, _ANSWER_OUTCOME),
)
VOTES = Table(
    "votes",
    "a voting rule over the first votes of a prompt at an exit",
    (
        PROMPT_ID,
        EXIT,
        Column("rule", "string", "majority, mean (of probabilities) or cautious"),
        Column("votes", "int32", "number of votes", "votes"),
        *_PROBABILITIES,
        _VERDICT,
        Column("agreement", "float32", "share of the votes that equal the joint verdict"),
        Column("tokens", "int32", "tokens generated for these votes, with markers", "tokens"),
    ),
)
SCORES = Table(
    "scores",
    "a metric of one way to reach verdicts, at an exit",
    (
        _SOURCE,
        Column(
            "metric",
            "string",
            "name of the metric, such as balanced_accuracy; bounds of balanced_accuracy_band hold "
            "at all exits of the source at once; calibration_error is the root mean square over "
            "bins of equal mass, debiased, p_calibrated the p-value of perfect calibration (one "
            "test for each source and exit, not adjusted), n_to_show_calibration the prompts at "
            "which an error below 5% could be shown",
        ),
        EXIT,
        *_ESTIMATE,
    ),
)
PAIRED = Table(
    "paired_verdicts",
    "an exit: verdicts with the thought against verdicts without, on the same prompts",
    (
        EXIT,
        Column("n", "int32", "number of prompts", "prompts"),
        Column("clusters", "int32", "number of pairs, each swapped as a whole", "pairs"),
        Column("right_only_with_thought", "int32", "right with the thought alone", "prompts"),
        Column("right_only_without", "int32", "right without the thought alone", "prompts"),
        Column("p", "float64", "p-value of the exact McNemar test, whole pairs swapped"),
        Column("p_holm", "float64", "p-value, adjusted over the exits (Holm)"),
        Column("tests", "int32", "tests in that family: one for each exit of the run"),
    ),
)
RISK = Table(
    "risk_coverage",
    "a share of the verdicts of an exit, those with the largest margins",
    (
        _SOURCE,
        EXIT,
        Column("coverage", "float64", "share of the verdicts that are kept"),
        Column("risk", "float64", "share of wrong verdicts among those that are kept"),
        Column("n", "int32", "verdicts that are kept", "verdicts"),
    ),
)
COST = Table(
    "cost",
    "a way to answer, all exits together",
    (
        Column("program", "string", "name of the timed program"),
        Column("votes", "int32", "number of thoughts per prompt and exit", "votes"),
        Column("tokens", "float64", "tokens per prompt and exit, all votes together", "tokens"),
        Column("before_visible", "float64", "steps before the first visible token", "steps"),
        Column("time_ratio", "float64", "median time over that of answering without a verdict"),
        Column("low", "float64", "minimum of this ratio over the timed rounds"),
        Column("high", "float64", "maximum of this ratio over the timed rounds"),
    ),
)
