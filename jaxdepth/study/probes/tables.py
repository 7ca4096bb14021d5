"""The tables of a probe run, of the thoughts that it reads, and of an ablation."""

from jaxdepth.study.tables import Column, Table

_PROMPT_ID = Column("prompt_id", "string", "the prompt")
_TARGET = Column(
    "target",
    "string",
    "content, behaviour, behaviour among harmful, or the two classes of a control domain",
)
_POSITION = Column("position", "string", "token position of the residual stream")
_LAYER = Column("layer", "int32", "layer of the residual stream; 0 is the embedding")
_SET = Column("set", "string", "own, or the name of the prompts that the probes are transferred to")
_POSITIVE = Column("positive", "bool", "class of the prompt: harmful, or refused")
_FITTED_AT = Column("fitted_at", "string", "position at which the probe was fitted")


def _interval(how: str, prefix: str = "") -> tuple[Column, Column]:
    return (
        Column(f"{prefix}low", "float64", f"lower bound of the 95% interval, {how}"),
        Column(f"{prefix}high", "float64", f"upper bound of the 95% interval, {how}"),
    )


_BOOTSTRAP = "bootstrap clustered by pair; NaN with fewer than 10 pairs"
_AUROC = (Column("auroc", "float64", "AUROC"), *_interval(_BOOTSTRAP))
_PROBE_COLUMNS = (
    _TARGET,
    Column("position", "string", "token position of the residual stream; null for bag of words"),
    Column("layer", "int32", "layer, 0 is the embedding; null for bag of words or a chosen layer"),
    Column("probe", "string", "kind of probe or control, such as logistic or shuffled labels"),
    _SET,
    Column("n", "int32", "prompts that were scored"),
    Column("n_positive", "int32", "of these, prompts of the positive class"),
    *_AUROC,
    Column("tpr_at_1_fpr", "float64", "true positive rate at a false positive rate of 1%"),
    Column(
        "calibration_error",
        "float64",
        "root mean square calibration error over bins of equal mass, debiased; null unless the "
        "probe is logistic, as the three that follow",
    ),
    *_interval("of that error; NaN with fewer than 10 pairs", "calibration_"),
    Column("p_calibrated", "float64", "p-value of perfect calibration, of this row by itself"),
    Column("selectivity", "float64", "AUROC minus that on shuffled labels; null for other probes"),
    Column("chosen_layers", "list of int32", "layer that each fold chose; null for other probes"),
)
PROBES = Table("probes", "a probe at a layer, a position and a set of prompts", _PROBE_COLUMNS)
PROBE_SCORES = Table(
    "probe_scores",
    "a prompt at a layer and a position, under a logistic probe that has not seen it",
    (
        _TARGET,
        _POSITION,
        _LAYER,
        _SET,
        _PROMPT_ID,
        Column("fold", "int32", "test fold of the prompt; null for transfer"),
        _POSITIVE,
        Column("score", "float32", "decision value; above 0 is the positive class", "logits"),
    ),
)
CURVES = Table(
    "curves",
    "a layer of a curve over depth",
    (
        Column("curve", "string", "target, position and set of a probe, or refusal log-odds"),
        Column("layer", "int32", "layer of the residual stream, or exit"),
        *_AUROC,
    ),
)
CHANGE_POINTS = Table(
    "change_points",
    "the change point of a curve, or the lag of one curve behind another",
    (
        Column("curve", "string", "a curve of the table curves"),
        Column("after", "string", "the curve that this one lags behind; null for a change point"),
        Column("kind", "string", "jump, gradual or none; null for a lag"),
        Column(
            "onset",
            "int32",
            "first layer above the lower level of the best-fitting step or ramp; of a lag, layers "
            "from onset to onset",
            "layers",
        ),
        Column("onset_low", "int32", "lower bound of the onset's 95% interval", "layers"),
        Column("onset_high", "int32", "upper bound of the onset's 95% interval", "layers"),
        Column(
            "midpoint",
            "int32",
            "first upper layer of the best-fitting step, about half way up; of a lag, layers from "
            "midpoint to midpoint",
            "layers",
        ),
        Column("midpoint_low", "int32", "lower bound of the midpoint's 95% interval", "layers"),
        Column("midpoint_high", "int32", "upper bound of the midpoint's 95% interval", "layers"),
        Column("rise", "float64", "upper minus lower level of the step; null for a lag", "AUROC"),
        Column("rise_low", "float64", "lower bound of the simultaneous 95% interval", "AUROC"),
        Column("rise_high", "float64", "upper bound of the simultaneous 95% interval", "AUROC"),
        Column("p_rise", "float64", "p-value of a rise against a flat curve"),
        Column("p_rise_holm", "float64", "p_rise adjusted over all curves of the table (Holm)"),
        Column("tests", "int32", "tests in that family: one for each curve; null for a lag"),
        Column("p_gradual", "float64", "p-value of a ramp against a step, of this curve by itself"),
    ),
)
CATEGORIES = Table(
    "categories",
    "a pair of categories of harm",
    (
        _POSITION,
        _LAYER,
        Column("category", "string", "category of harm"),
        Column("other", "string", "the other category"),
        Column("n", "int32", "prompts of the category"),
        Column("cosine", "float64", "cosine of the two categories' directions"),
    ),
)
SUM_OR_OR = Table(
    "sum_or_or",
    "the comparison of a sum with an OR of categories as a model of refusal",
    (
        _POSITION,
        _LAYER,
        Column("n", "int32", "prompts"),
        Column("n_of_two", "int32", "of these, prompts of more than one category"),
        Column("explained_by_sum", "float64", "held-out R2 of refusal log-odds by the sum"),
        Column("explained_by_or", "float64", "held-out R2 of refusal log-odds by the OR"),
        Column("difference", "float64", "R2 by the OR minus R2 by the sum"),
        *_interval(f"of the difference, {_BOOTSTRAP}"),
    ),
)
KNOWS_DOES = Table(
    "knows_does",
    "a combination of what the probe reads and what the exit does, by label",
    (
        _POSITION,
        Column("exit", "int32", "exit: layers run, and the layer of the probe"),
        Column("competent", "string", "whether it answers harmless prompts: yes, no, unknown"),
        Column("label", "string", "harmful or harmless"),
        Column("quadrant", "string", "combination, such as knows but complies"),
        Column("n", "int32", "prompts of the label"),
        Column("count", "int32", "of these, prompts in the quadrant"),
        Column("value", "float64", "count / n"),
        *_interval("Wilson; NaN with fewer than 10 prompts"),
    ),
)
THOUGHT_PROBES = Table(
    "thought_probes",
    "a probe at a layer and at a position: before the thought, at its end, or at the verdict",
    _PROBE_COLUMNS,
)
THOUGHT_SCORES = Table(
    "thought_scores",
    "a prompt with its thought at a layer, under a probe that has not seen the prompt",
    (
        _PROMPT_ID,
        _TARGET,
        _FITTED_AT,
        _LAYER,
        _POSITIVE,
        Column("fold", "int32", "test fold of the prompt"),
        Column("thought_tokens", "int32", "tokens of the thought"),
        Column(
            "scores",
            "list of float32",
            "decision values at the last token before the thought, at each of its tokens, at the "
            "tokens that close it, and at the verdict",
            "logits",
        ),
    ),
)
THOUGHTS = Table(
    "thoughts",
    "a measure of a probe's scores at a place along the thoughts",
    (
        _TARGET,
        _FITTED_AT,
        Column("layer", "int32", "layer that most folds chose; 0 is the embedding"),
        Column("metric", "string", "AUROC, mean score, or fall to the verdict"),
        Column("positive", "bool", "class whose mean or fall it is; null for AUROC"),
        Column(
            "place", "string", "opened, a share of the thought, closed, or verdict; null for falls"
        ),
        Column("n", "int32", "prompts"),
        Column("value", "float64", "AUROC, or decision value in logits"),
        *_interval(_BOOTSTRAP),
    ),
)
ABLATION = Table(
    "ablation",
    "a metric of full depth with one layer's direction ablated",
    (
        Column("layer", "int32", "layer of the direction; 0 where nothing is ablated"),
        Column(
            "ablated",
            "string",
            "nowhere, after that layer, after every layer; or to the harmless mean: set after that "
            "layer to the mean of harmless prompts' last tokens",
        ),
        Column("metric", "string", "refusal log-odds (nats), opens with a refusal, content AUROC"),
        Column("label", "string", "harmful or harmless; null for the AUROC"),
        Column("n", "int32", "prompts"),
        Column("value", "float64", "the metric with the direction ablated"),
        *_interval(f"{_BOOTSTRAP}; Wilson for opens with a refusal"),
        Column("change", "float64", "value minus that of the unchanged model, on the same prompts"),
        *_interval(f"of the change, {_BOOTSTRAP}", "change_"),
    ),
)
