"""Settings of each command: frozen dataclasses, from the command line or a file in configs/."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from jaxdepth.model.leaves import MATRICES
from jaxdepth.refusal.tokens import DEFAULT_OPENERS

Mesh = Annotated[str | None, tyro.conf.arg(metavar="SIZES")]
Profile = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True)
class Convert:
    """Convert a Hugging Face folder, a GGUF file or a model on the hub to a checkpoint."""

    source: tyro.conf.Positional[Path]
    """Folder with config.json and *.safetensors, a .gguf file, or a model's id on the hub."""
    target: tyro.conf.Positional[Path]
    """Folder to make. If it already holds this source, nothing is done."""
    tokenizer: bool = True
    """Take the tokenizer along; without it, prompts cannot be read."""
    verify: bool = False
    """Then read both again: every array's digest, and the logits of every exit where they fit."""


@dataclass(frozen=True)
class Inspect:
    """Say what lies at a path, and whether it is whole: checkpoint, run, adapter or source."""

    path: tyro.conf.Positional[Path]
    """A checkpoint, a run directory, an adapter, a Hugging Face folder or a .gguf file."""


@dataclass(frozen=True)
class OnModel:
    """A model, what it is asked, and how it is run."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    out: Path
    """Run directory. A run that was cut short is continued."""
    prompts: tuple[str, ...] = ("builtin:pairs",)
    """builtin:pairs, builtin:ordinary, or .jsonl, .json, .csv, .txt files; write harmful=FILE or
    harmless=FILE where the file itself has no labels."""
    steer: Literal["none", "ablate", "add"] = "none"
    """Change the residual stream: take a direction out of it, or add one to it."""
    directions: Path | None = None
    """The directions.safetensors of a `jaxdepth probe`; goes with --steer."""
    direction: Annotated[str | None, tyro.conf.arg(metavar="NAME@LAYER")] = None
    """Which of them, and as found after which layer, such as content.instruction@15."""
    steer_layers: str = "all"
    """After which layers the stream is changed, such as 10-20."""
    steer_scale: float = 1.0
    """How much of the direction is taken out or added; 1 is all of it."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first N prompts (the halves of a pair count as one)."""
    batch_size: int = 16
    """Prompts per step. Changes speed and memory, not results."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of weights and activations; by default that of the checkpoint."""
    int8: bool = False
    """Hold the layers' matrices as 8-bit integers, each output with its scale."""
    seed: int = 0
    """Of draws and of the bootstrap intervals."""
    mesh: Mesh = None
    """Devices that share the work, such as data=4,model=2: prompts over data, heads and MLP over
    model, the width of all weights over fsdp."""
    profile: Profile = None
    """Write a profile of the devices' work there, for TensorBoard or Perfetto."""


@dataclass(frozen=True)
class Asking(OnModel):
    """A model that is cut at some exits and speaks there."""

    exits: str = "all"
    """Which exits: all, or numbers and ranges such as 1,8,16-30."""
    temperature: float = 0.0
    """0 takes the most probable token."""
    top_k: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Draw among the K most probable tokens."""
    top_p: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Draw among the most probable tokens that together have probability P."""
    reference: Path | None = None
    """The checkpoint that judges coherence; by default the model itself at full depth."""
    keep_text: bool = True
    """Keep what the model said in the run directory."""
    memory_gb: float = 2.0
    """Memory for caches and logits; more lanes than fit are split."""


@dataclass(frozen=True)
class Speaking(Asking):
    """What is asked of a model at every exit, and how its answers are taken."""

    out: Path = Path("runs/sweep")
    """Run directory. A run that was cut short is continued."""
    max_new_tokens: int = 32
    """Tokens that each exit says at most; 0 sweeps the first token only."""
    generate_limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Generate for the first N prompts only (the halves of a pair count as one)."""
    samples: int = 1
    """Answers per prompt and exit; more than one needs a temperature."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; cut off with all that follows."""
    openers: tuple[str, ...] = DEFAULT_OPENERS
    """Words that open a refusal; each must be one token of the model."""


@dataclass(frozen=True)
class Sweep(Speaking):
    """Run every prompt at every exit and write tables and figures."""

    adapter: Annotated[str | None, tyro.conf.arg(metavar="A")] = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""


@dataclass(frozen=True)
class PolicySweep(Sweep):
    """Run every prompt at every exit, or let tokens exit one by one; write tables and figures."""

    policy: tuple[str, ...] = ()
    """Policies with thresholds, such as margin=0.3,0.6 fixed=20,24 oracle: each token exits at the
    first of --exits that shows enough. top1, margin, saturation, patience, classifier, fixed,
    oracle."""
    caching: Literal["late", "propagate"] = "late"
    """With --policy: what a token leaves in layers that it did not run. What it would have had,
    computed when a later token goes deeper; or what follows from the stream that it exited with."""
    decay: float | None = None
    """With --policy: thresholds fall along an answer, by 0.9 of them + 0.1 exp(-decay t / N)."""
    classifier: Path | None = None
    """With --policy classifier=...: a .safetensors file of exit classifiers."""


@dataclass(frozen=True)
class StaticOrDynamic(PolicySweep):
    """Cut every token at one depth, or let each exit by itself: what is kept at the same depth?"""

    validation: tuple[str, ...] = ("builtin:pairs/validation",)
    """Prompts that thresholds are calibrated on, and exit classifiers fitted; not reported."""
    depths: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9)
    """Mean depths to calibrate for, as shares of all layers."""
    risk: float = 0.2
    """Mean share of tokens that may differ from full depth's, to calibrate for."""
    error: float = 0.05
    """How probable it may be that a calibrated threshold exceeds the risk."""
    draft_depths: str = "15-29"
    """Draft depths of self-speculative decoding; empty leaves it out."""
    draft_tokens: int = 4
    """Tokens drafted before each verification."""
    draws: int = 1000
    """Of the bootstrap, whole pairs at a time."""


UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Study(Speaking):
    """Sweep a checkpoint as it is and with adapters, and compare them prompt by prompt."""

    adapters: tuple[str, ...] = (
        UNTOUCHED,
        "builtin:shallow",
        "builtin:spoken",
        "builtin:depth_robust",
    )
    """What is compared: untouched, builtin:NAME, .safetensors files or PEFT folders."""


@dataclass(frozen=True)
class Alignment(Speaking):
    """Tune one checkpoint by several methods, on the same data and steps, and compare them."""

    methods: tuple[Literal["refusals", "verdicts", "dpo"], ...] = ("refusals", "verdicts", "dpo")
    """How it is aligned, as for `jaxdepth tune`."""
    recipe: str = "tune/shallow"
    """The settings that all methods share: a file for `jaxdepth tune`."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Steps of each, in place of the recipe's."""


@dataclass(frozen=True)
class Decide(Asking):
    """Let every exit think, decide with a verdict token, and answer; write tables and figures."""

    out: Path = Path("runs/decide")
    """Run directory. A run that was cut short is continued."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="A")] = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
    protocol: str = "prompted"
    """What is said to the model and what it says: prompted, tuned, or a TOML file."""
    prompts: tuple[str, ...] = ("builtin:pairs",)
    """As for `jaxdepth sweep`."""
    thought_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The longest thought, in place of the protocol's; 0 decides at once."""
    answer_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The longest answer, in place of the protocol's; 0 only decides."""
    votes: int = 1
    """Thoughts per prompt and exit; more than one needs a temperature."""
    temperature: float = 0.0
    """Of thoughts and answers; 0 takes the most probable token."""
    verdict_temperature: float = 1.0
    """Divides the verdicts' log-probabilities; a run prints the one that fits its prompts."""
    refuse_from: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Refuse from this P(refuse) on; by default the most probable verdict is taken."""
    caution_from: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Answer in part from this P(refuse) + P(partial) on; goes with --refuse-from."""
    abstain_below: float = 0.0
    """Abstain, and show nothing, where the first verdict leads the second by less."""
    cuts: tuple[int, ...] = (0, 16, 64)
    """Also decide after only so many tokens of each thought; 0 is the direct verdict."""
    swap: bool = True
    """Also decide upon the thought of another prompt."""
    force: bool = True
    """Also answer after each of the three verdicts."""
    series: Literal["none", "caveat", "redecide"] = "none"
    """A second pass over what was judged partial: write the caveated answer, or decide again."""
    cost_rounds: int = 1
    """How often each program is timed for the table of costs; 0 leaves it out."""
    keep_text: bool = True
    """Keep thoughts and answers in the run directory; --swap needs them."""
    batch_size: int = 8
    """Prompts per step. Changes speed and memory, not results."""


@dataclass(frozen=True)
class Probe(OnModel):
    """Read what every layer knows of a prompt, and hold it against what the model does."""

    exits: ClassVar[str] = "all"
    reference: ClassVar[Path | None] = None  # nothing is said that would have to be judged

    out: Path = Path("runs/probe")
    """Run directory. A run that was cut short is continued."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="A")] = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
    transfer: tuple[str, ...] = ()
    """Other prompts that the probes are tried on, not fitted; A+B joins two sources."""
    positions: tuple[str, ...] = ("all",)
    """all, or instruction, template1.., last, and response: the first token of the reply."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """A run of `jaxdepth sweep` or `decide` on this model and these prompts: what it did."""
    folds: int = 5
    """Each is tested by probes of the others, of which one chooses."""
    group_by: Literal["pair", "source"] = "pair"
    """What folds keep whole: pairs, or all prompts of a file or built-in set."""
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Inverse strengths of regularisation to choose among."""
    draws: int = 1000
    """Of the bootstrap, whole pairs at a time."""
    openers: tuple[str, ...] = DEFAULT_OPENERS
    """Words that open a refusal, for the curve of refusal; each must be one token."""


@dataclass(frozen=True)
class ProbeAgainst(Probe):
    """Read what every layer knows of a prompt, beside what the model does; compare checkpoints."""

    against: Annotated[str | None, tyro.conf.arg(metavar="ALIGNED")] = None
    """Also probe this checkpoint, or MODEL with this adapter, and compare the two."""
    control: tuple[str, ...] = ("builtin:control",)
    """With --against: prompts of two categories that have nothing to do with harm."""
    facts: Annotated[str | None, tyro.conf.arg(metavar="FACTS")] = None
    """With --against: also read facts at every exit; builtin:facts or a .jsonl file."""


@dataclass(frozen=True)
class Backfire(Speaking):
    """Read facts off two checkpoints at every exit, and let both speak: what do they withhold?"""

    against: Annotated[str, tyro.conf.arg(metavar="ALIGNED")] = "builtin:depth_robust"
    """Another checkpoint, or an adapter of MODEL."""
    facts: str = "builtin:facts"
    """builtin:facts, or a .jsonl file with question, right and wrong in each line."""
    draws: int = 1000
    """Of the bootstrap, whole questions at a time."""


@dataclass(frozen=True)
class Where:
    """Ask where safety sits: what every layer knows, what exits do, and what a direction causes."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    adapter: Annotated[str | None, tyro.conf.arg(metavar="A")] = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
    out: Path = Path("runs/where_is_safety")
    """Folder of the runs: sweep, probe, ablation. What was cut short is continued."""
    prompts: tuple[str, ...] = ("builtin:pairs/test",)
    """What is asked and probed, as for `jaxdepth sweep`."""
    transfer: tuple[str, ...] = ("builtin:pairs/unseen",)
    """Other prompts: the probes are tried on them, and with them directions are ablated."""
    exits: str = "all"
    """Of the sweep."""
    max_new_tokens: int = 24
    """Tokens that each exit says at most."""
    positions: tuple[str, ...] = ("all",)
    """Of the probes, as for `jaxdepth probe`."""
    direction: str = "content.last"
    """What is ablated at every layer: a name in the probe run's directions.safetensors."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first N prompts of each (the halves of a pair count as one)."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of weights and activations; by default that of the checkpoint."""
    seed: int = 0
    """Of folds and of the bootstrap intervals."""


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


@dataclass(frozen=True)
class Export:
    """Write a checkpoint, with an adapter merged in, as a Hugging Face folder or a checkpoint."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    target: tyro.conf.Positional[Path]
    """Folder to make."""
    to: Literal["huggingface", "checkpoint"] = "huggingface"
    """What to make: safetensors that transformers loads, or a checkpoint for jaxdepth."""
    adapter: str | None = None
    """builtin:NAME, a .safetensors file from `jaxdepth tune`, or a PEFT folder."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights that are written; by default that of the checkpoint."""


@dataclass(frozen=True)
class Bench:
    """Time all exits against one run at full depth, side by side in this process."""

    model: tyro.conf.Positional[Path]
    """A checkpoint made by `jaxdepth convert`."""
    batches: tuple[int, ...] = (1, 4, 16)
    """How many prompts at once."""
    length: int = 48
    """Tokens per prompt."""
    new_tokens: int = 16
    """Tokens that each lane says."""
    rounds: int = 5
    """How often each program is run."""
    loop: bool = True
    """Also time the loops over single exits, which take long."""
    mesh: Mesh = None
    """Devices that share the work, as for sweep."""
    profile: Profile = None
    """Write a profile of the devices' work there."""


@dataclass(frozen=True)
class Plan:
    """Say what a sweep and a tuning step need on devices that are not there."""

    model: tyro.conf.Positional[Path]
    """A converted checkpoint, another folder with a config.json, or a config.json; no weights."""
    topology: Annotated[str | None, tyro.conf.arg(metavar="T")] = None
    """A TPU slice by its name, such as v5e:4x4; needs jaxdepth[tpu]."""
    gpus: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """So many GPUs instead, planned on as many virtual CPU devices."""
    gpu: str = "H100"
    """Which: A100, H100 or H200."""
    gpu_memory: Annotated[float | None, tyro.conf.arg(metavar="GB")] = None
    """Memory of each, where it is not that of the kind."""
    mesh: str = "data=1"
    """How the devices share the work, such as data=4,model=4: its product is their number."""
    prompts: int = 64
    """Prompts at once."""
    length: int = 256
    """Tokens of a prompt."""
    new_tokens: int = 64
    """Tokens that each exit says."""
    exits: str = "all"
    """Which exits."""
    samples: int = 1
    """Answers per prompt and exit."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of weights and activations."""
    study_prompts: int = 1000
    """Prompts of the whole sweep."""
    sequences: int = 16
    """Sequences of a tuning step (LoRA of rank 8 on all layers, three exits and full depth); 0
    leaves it out."""
