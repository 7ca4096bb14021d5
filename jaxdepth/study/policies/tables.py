"""The tables of exit policies: `jaxdepth sweep --policy` and experiments/static_or_dynamic.py."""

from jaxdepth.study.common_tables import ANSWER, PROMPT_ID, SAMPLE
from jaxdepth.study.tables import Column, Table

_RULE = Column("rule", "string", "policy and threshold, such as margin 0.3")
_RULE_COLUMNS = (
    _RULE,
    Column("policy", "string", "exit policy"),
    Column("threshold", "float32", "confidence at which a token exits, in the policy's own unit"),
)
_LABEL = Column("label", "string", "harmful, harmless or unlabelled")
_DRAFT_DEPTH = Column("draft_depth", "int32", "how many layers draft", "layers")
_PROMPTS = Column("n", "int32", "number of prompts", "prompts")
_BOOTSTRAP = "bootstrap of whole pairs; NaN with fewer than 10 pairs, or where nothing varies"
_INTERVAL = (
    Column("low", "float64", f"lower bound of its 95% interval, {_BOOTSTRAP}"),
    Column("high", "float64", f"upper bound of its 95% interval, {_BOOTSTRAP}"),
)

DYNAMIC = Table(
    "dynamic",
    "an answer to a prompt under a rule (a policy with a threshold)",
    (
        PROMPT_ID,
        *_RULE_COLUMNS,
        Column("mean_exit", "float32", "mean exit over the answer's tokens", "layers"),
        Column(
            "mean_layers",
            "float32",
            "mean layers computed per token, those that later tokens needed included",
            "layers",
        ),
        SAMPLE,
        *ANSWER,
    ),
)
TOKENS = Table(
    "tokens",
    "a token of an answer",
    (
        PROMPT_ID,
        _RULE,
        SAMPLE,
        Column("place", "int32", "position in the answer, from 0", "tokens"),
        Column("token", "int32", "token id; null where texts are not kept"),
        Column("exit", "int32", "exit that the policy chose", "layers"),
        Column(
            "layers",
            "int32",
            "layers computed for the token, those that later tokens needed included",
            "layers",
        ),
        Column("score", "float32", "the policy's confidence at that exit"),
        Column("confidence", "float32", "probability of the most probable token at that exit"),
    ),
)
POLICIES = Table(
    "policies",
    "a metric of a rule on the prompts of a label",
    (
        *_RULE_COLUMNS,
        _LABEL,
        Column("competent", "string", "whether it answers harmless prompts: yes, no, unknown"),
        Column("metric", "string", "mean_exit, mean_layers, agreement, same_text or an outcome"),
        _PROMPTS,
        Column("value", "float64", "mean over prompts"),
        Column(
            "low", "float64", "lower 95% bound: Wilson for outcomes, else bootstrap; NaN of few"
        ),
        Column(
            "high", "float64", "upper 95% bound: Wilson for outcomes, else bootstrap; NaN of few"
        ),
    ),
)
_MATCH = (
    Column("mean_layers", "float64", "mean depth of the rule over all prompts", "layers"),
    Column("below", "int32", "static exit below this depth", "layers"),
    Column("above", "int32", "static exit above it; the two are interpolated", "layers"),
    Column("difference", "float64", "rule minus static truncation, paired by prompt"),
)
MATCHED = Table(
    "matched",
    "a metric of a rule against static truncation at the same mean depth, by label",
    (
        *_RULE_COLUMNS,
        _LABEL,
        Column("metric", "string", "agreement, same_text or an outcome"),
        _PROMPTS,
        *_MATCH,
        *_INTERVAL,
        Column("band_low", "float64", "lower bound of a 95% band that holds for all rules at once"),
        Column("band_high", "float64", "upper bound of that band"),
        Column("rules", "int32", "number of rules in the band: all that are matched", "rules"),
    ),
)
CHOSEN_RULES = Table(
    "chosen_rules",
    "the rule of a policy that differs most from static truncation on some prompts, on others",
    (
        Column("policy", "string", "exit policy; any: chosen among the rules of all policies"),
        _LABEL,
        Column("metric", "string", "agreement, same_text or an outcome"),
        _RULE,
        Column("threshold", "float32", "threshold of the rule"),
        Column("rules", "int32", "number of rules that it was chosen from", "rules"),
        Column("n_choosing", "int32", "number of prompts that chose it", "prompts"),
        Column("on_choosing", "float64", "difference on these: selected, so too large"),
        Column("n", "int32", "number of other prompts, which the columns below are of", "prompts"),
        *_MATCH,
        *_INTERVAL,
    ),
)
CALIBRATION = Table(
    "calibration",
    "a target for a policy, and the threshold that validation prompts choose for it",
    (
        Column("policy", "string", "exit policy; of guarded with its probe, layer and exit"),
        Column("aim", "string", "mean layers, or risk: mean share of tokens not full depth's"),
        Column("wanted", "float64", "target value of the aim"),
        Column(
            "threshold",
            "float32",
            "chosen threshold; null where none is certified (for each policy by itself)",
        ),
        Column("on_validation", "float64", "value of the aim on the validation prompts"),
        Column("held_out", "float64", "value of the aim on the held-out prompts"),
        *_INTERVAL,
        Column("layers", "float64", "mean depth on the held-out prompts", "layers"),
        Column("n_validation", "int32", "number of validation prompts", "prompts"),
        Column("n_held_out", "int32", "number of held-out prompts", "prompts"),
    ),
)
SPECULATION = Table(
    "speculation",
    "a prompt that was answered by self-speculative decoding with a draft depth",
    (
        PROMPT_ID,
        _DRAFT_DEPTH,
        Column("n_tokens", "int32", "length of the answer", "tokens"),
        Column("rounds", "int32", "rounds of drafting and verification", "rounds"),
        Column("drafted", "int32", "drafted tokens", "tokens"),
        Column("accepted", "int32", "drafted tokens that full depth accepted", "tokens"),
        Column("passes", "int32", "layers run one after the other, after the prompt", "layers"),
    ),
)
ACCEPTANCE = Table(
    "acceptance",
    "a metric of a draft depth on the prompts of a label",
    (
        _DRAFT_DEPTH,
        _LABEL,
        Column(
            "metric", "string", "accepted, share of drafted tokens; passes, relative to full depth"
        ),
        Column("n", "int32", "number of prompts that drafted", "prompts"),
        Column("value", "float64", "ratio of two sums over prompts"),
        *_INTERVAL,
        Column("band_low", "float64", "lower bound of a 95% band that holds at all depths at once"),
        Column("band_high", "float64", "upper bound of that band"),
    ),
)
