"""Settings of tuning."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jaxdepth.model.parameters import MATRICES
from jaxdepth.study.settings import Mesh, Profile


@dataclass(frozen=True)
class Tune:
    """Tune a checkpoint to refuse, at full depth only or at every exit; write an adapter."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    out: Path = Path("runs/tune")
    """Run directory. A run that was cut short is continued."""
    method: Literal["refusals", "verdicts", "dpo"] = "refusals"
    """Supervised refusals; thoughts and verdict tokens before every answer; or preferences."""
    refusals_at: Literal["final", "every"] = "every"
    """Refusals are learnt at full depth only, or at early exits too."""
    benign_at: Literal["final", "every"] = "every"
    """The same for all other answers."""
    benign_target: Literal["text", "distill"] = "distill"
    """What early exits learn of them: the text, or what full depth makes of each token."""
    exits: str = "all"
    """Which early exits may be supervised; full depth always is."""
    exits_per_step: int = 3
    """Early exits drawn at each step; 0 takes them all."""
    early_weight: float = 1.0
    """Of all early exits of a step together; full depth has 1."""
    deep_more: bool = False
    """Early exits count in proportion to their depth."""
    layer_dropout: float = 0.0
    """How often the last layer is left out; earlier ones are less often, the first never."""
    train: Literal["lora", "weights"] = "lora"
    """Low-rank factors, or the weights themselves."""
    leaves: tuple[str, ...] = MATRICES
    """Which weights of a layer; with --train weights also norms, embed, norm and head."""
    layers: str = "all"
    """Which layers are trained, such as 16-30."""
    rank: int = 8
    """Of low-rank factors."""
    alpha: float = 16.0
    """Their product is multiplied by alpha / rank."""
    harmful_prompts: tuple[str, ...] = ("builtin:harmful/train",)
    """What is to be refused, as for `jaxdepth sweep`."""
    benign_answers: str = "builtin"
    """Benign prompts with answers: SmolLM2's own, or a file by tools/make_benign.py."""
    harmful: int = 2
    """Harmful prompts in a batch."""
    lookalike: int = 2
    """Harmless look-alikes in a batch."""
    benign: int = 4
    """Other benign prompts in a batch."""
    borderline: int = 0
    """Borderline prompts, answered in part, in a batch."""
    answer_tokens: int = 32
    """Tokens that are learnt of an answer."""
    protocol: str = "tuned"
    """With --method verdicts: the tokens of thoughts and verdicts."""
    beta: float = 0.1
    """With --method dpo: how closely the base is kept to."""
    chosen_weight: float = 1.0
    """With --method dpo: of the preferred answer's own loss, or its probability may fall too."""
    steps: int = 400
    """Steps in all."""
    accumulate: int = 1
    """Batches in a step."""
    learning_rate: float = 1e-3
    """At its highest."""
    warmup: int = 20
    """Steps until then; a cosine leads down to zero."""
    weight_decay: float = 0.0
    """Of AdamW."""
    clip: float = 1.0
    """The largest norm of a gradient."""
    remat: bool = False
    """Compute layers again for the gradient: less memory, more time."""
    save_every: int = 20
    """Steps after which the state is saved."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the base and of activations; what is trained is always float32."""
    seed: int = 0
    """Of the factors, the batches and the exits."""
    mesh: Mesh = None
    """Devices that share the work, as for sweep."""
    profile: Profile = None
    """Write a profile of the devices' work there."""
