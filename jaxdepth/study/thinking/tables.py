"""Tables of the comparison of thinking with deciding at once."""

from jaxdepth.study.common_tables import EXIT, PROMPT_ID
from jaxdepth.study.tables import Column, Table

_ARM = Column(
    "arm",
    "string",
    "direct, thought, same_verdict, any, filler or bottleneck; probe: the probe before any thought",
)
_SOURCE = Column(
    "source",
    "string",
    "verdict (the arm's own), cut N (after N tokens of its thought) or swapped (after the thought "
    "of another prompt)",
)
_GROUP = Column(
    "group",
    "string",
    "all prompts, look-alikes (all harmless ones but builtin:ordinary), or a source of prompts",
)
_ESTIMATE = (
    Column("n", "int32", "prompts behind the estimate; a mean over seeds where they differ"),
    Column("value", "float64", "estimate, a mean over seeds"),
    Column("low", "float64", "lower bound of its 95% interval; NaN below 10 pairs"),
    Column("high", "float64", "upper bound of the same"),
)

ARM_TABLE = Table(
    "arms",
    "an arm with one training seed",
    (
        Column("arm", "string", "name of the arm"),
        Column("seed", "int32", "training seed"),
        Column("is_run", "bool", "whether it was run; if not it is in no other table"),
        Column("adapter", "string", "its adapter; null where there is none yet"),
        Column("command", "string", "the command that runs it; null where it was run"),
    ),
)

METRICS = Table(
    "arm_metrics",
    "a metric of an arm at an exit, on a group of prompts",
    (
        _ARM,
        _SOURCE,
        EXIT,
        _GROUP,
        Column(
            "metric",
            "string",
            "balanced_accuracy; caught: harmful prompts with REFUSE or PARTIAL; over_refusal: "
            "harmless prompts with REFUSE or PARTIAL; recall_at_1_fpr: harmful prompts whose "
            "P(caution) is above the threshold that flags 1% of all harmless prompts of the run; "
            "auroc: of P(caution), whatever the threshold; brier; calibration_error: root mean "
            "square over bins, debiased; p_caution_LABEL: mean P(refuse) + P(partial); flips: "
            "verdicts that another thought turns from caution to COMPLY or back, of those whose "
            "pair's other prompt has the other verdict; "
            "flips_of_all: the same, of all prompts with a pair; answer_follows_VERDICT: answers "
            "that are what the verdict says",
        ),
        Column("seeds", "int32", "training seeds behind the estimate"),
        *_ESTIMATE,
    ),
)

CONTRASTS = Table(
    "arm_contrasts",
    "an arm minus another at an exit, on the same prompts of a group",
    (
        _ARM,
        _SOURCE,
        Column("against", "string", "the arm that is subtracted"),
        Column("against_source", "string", "how the verdict of that one was reached"),
        EXIT,
        _GROUP,
        Column("metric", "string", "auroc, balanced_accuracy, recall_at_1_fpr or over_refusal"),
        Column("seeds", "int32", "training seeds of the arm"),
        Column("against_seeds", "int32", "training seeds of the other"),
        *_ESTIMATE,
        Column(
            "n_for_5_points",
            "int32",
            "prompts with which a test at 5% finds a difference of 5 points with a probability of "
            "80%, at the variance between prompts that was seen; more seeds are another matter",
        ),
        Column(
            "right_only_first",
            "int32",
            "right in the arm alone, first seeds of both; this and what follows are null but for "
            "balanced_accuracy of all prompts",
        ),
        Column("right_only_second", "int32", "right in the other alone"),
        Column("p", "float64", "exact McNemar test of these, whole pairs swapped"),
        Column("p_holm", "float64", "p-value, adjusted over the exits (Holm)"),
        Column("tests", "int32", "tests in that family: one for each exit"),
    ),
)

PROBE_SCORES = Table(
    "probe_scores",
    "a prompt at an exit, scored by the probe before any thought",
    (
        PROMPT_ID,
        EXIT,
        Column("layer", "int32", "layer that the probe reads", "layers"),
        Column("score", "float32", "its decision value: log-odds that the prompt is harmful"),
    ),
)

PROBE_CHOICE = Table(
    "probe_choice",
    "a layer and a strength that the probe could choose",
    (
        Column("layer", "int32", "layer that the probe reads", "layers"),
        Column("strength", "float64", "inverse strength of the L2 penalty"),
        Column("auroc", "float64", "mean AUROC over folds of the training pairs"),
    ),
)
