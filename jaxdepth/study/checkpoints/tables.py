"""Tables of comparisons of two checkpoints, and the values that their columns take."""

from dataclasses import replace

from jaxdepth.study.comparison import tables as comparison
from jaxdepth.study.tables import Column, Table

# Sides: the model that is named first, and the checkpoint that it is compared with.
BASE, AGAINST = SIDES = "base", "against"
# Measures: of probes, and of knowledge.
AUROC = "auroc"
RIGHT, MARGIN = "right", "margin"
# Domains of probes, and of knowledge.
DANGEROUS, CONTROL = "dangerous", "control"
GENERAL, NEIGHBOURING = "general", "neighbouring"
DANGEROUS_MINUS_CONTROL = f"{DANGEROUS} - {CONTROL}"
NEIGHBOURING_MINUS_GENERAL = f"{NEIGHBOURING} - {GENERAL}"

DIFFERENCES = Table(
    "against",
    "a measure of both checkpoints in one domain, at a layer or exit or averaged over them",
    (
        Column("measure", "string", "auroc of the probe; right and margin of the knowledge set"),
        Column("domain", "string", "domain of the prompts; `a - b` is the difference of two"),
        Column("position", "string", "token position that the probe reads; null for knowledge"),
        Column("layer", "int32", "layer or exit; null for the mean over all from 1 up"),
        Column("n", "int32", "number of prompts"),
        Column("base", "float64", "measure of the base; right is a share", "nats for margin"),
        Column("base_low", "float64", "its 95% interval, lower bound"),
        Column("base_high", "float64", "its 95% interval, upper bound"),
        Column("against", "float64", "measure of the other checkpoint", "nats for margin"),
        Column("against_low", "float64", "its 95% interval, lower bound"),
        Column("against_high", "float64", "its 95% interval, upper bound"),
        Column("difference", "float64", "against - base, paired by prompt", "nats for margin"),
        Column("low", "float64", "95% interval of the difference, lower bound; NaN of few pairs"),
        Column("high", "float64", "95% interval of the difference, upper bound; NaN of few pairs"),
        Column("p", "float64", "two-sided p-value of no difference; NaN with fewer than 10 pairs"),
        Column(
            "p_holm",
            "float64",
            "the p-value, Holm-adjusted over the layers of this measure, domain and position; the "
            "mean over layers is not adjusted",
        ),
        Column("tests", "int32", "tests in that family: one for each layer; 1 for the mean"),
    ),
)
KNOWLEDGE = Table(
    "facts",
    "a knowledge question at an exit",
    (
        Column("prompt_id", "string", "the question"),
        Column("domain", "string", "general, or neighbouring: sounds dangerous and is not"),
        Column("category", "string", "topic of the question; null where it has none"),
        Column("exit", "int32", "layers run"),
        Column("logprob", "float32", "log-probability of the right answer's first token", "nats"),
        Column("margin", "float32", "logprob minus that of the best wrong answer", "nats"),
        Column("right", "bool", "whether the right answer ranks first"),
    ),
)
# Outcomes of the answers of both checkpoints.
SPOKEN = replace(comparison.COMPARISON, name="spoken")
