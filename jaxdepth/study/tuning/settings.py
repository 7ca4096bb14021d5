"""Settings of tuning."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdepth.model.parameters import MATRICES
from jaxdepth.ranges import COUNT, PROBABILITY, Range
from jaxdepth.study.settings import Columns, Devices, DType, ModelPath, Output, PromptSets

Count = Annotated[int, tyro.conf.arg(metavar="N")]
Number = Annotated[float, tyro.conf.arg(metavar="X")]
Where = Literal["final", "every"]


@dataclass(frozen=True)
class Supervision:
    """What is learned, and at which exits."""

    method: Literal["refusals", "verdicts", "dpo"] = "refusals"
    """refusals: supervised refusals; verdicts: thoughts and verdict tokens before every answer;
    dpo: direct preference optimisation."""
    refusals_at: Where = "every"
    """Refusals are supervised at full depth only (final), or at early exits too (every)."""
    benign_at: Where = "every"
    """Answers to all other prompts are supervised at full depth only, or at early exits too."""
    benign_target: Literal["text", "distill"] = "distill"
    """Target of early exits on other prompts: the text (cross-entropy), or full depth's
    distribution over every token (distillation, KL)."""
    exits: Annotated[str, tyro.conf.arg(metavar="EXITS")] = "all"
    """Early exits that may be supervised, such as 16-29; full depth always is."""
    exits_per_step: Annotated[Count, Range(0)] = 3
    """Early exits sampled at each step; 0 takes them all."""
    early_weight: Annotated[Number, Range(0)] = 1.0
    """Loss weight of all early exits of a step together; full depth has weight 1."""
    deep_more: bool = False
    """Weight the loss of each early exit in proportion to its number of layers (as LayerSkip does),
    instead of equally."""
    layer_dropout: Annotated[float, tyro.conf.arg(metavar="P"), PROBABILITY] = 0.0
    """Probability of skipping the last layer in training; it falls exponentially to 0 at the first
    (LayerSkip's layer dropout)."""
    protocol: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tuned"
    """With --method verdicts: the protocol whose tokens mark thoughts and verdicts; the adapter
    records it, and decides by it."""
    thoughts: Literal["own", "same_verdict", "any", "filler"] = "own"
    """With --method verdicts, what stands before a verdict: a thought about the prompt; as controls
    one about another prompt with the same verdict, one about any other prompt, or as many full
    stops as the thought has tokens."""
    decision_tokens: Annotated[Count, Range(0)] = 0
    """Tokens that decide what a reply is: an answer's first ones, or a verdict with those after
    it."""
    decision_weight: Annotated[Number, Range(0)] = 1.0
    """Weight of each of them in an answer's loss, where that of another token is 1."""
    contrast: Annotated[Number, Range(0)] = 0.0
    """Weight of a contrast within pairs, where the loss on a refusal has 1: the first token's
    refusal log-odds of the harmful prompt against those of its look-alike, at the exits where
    refusals are supervised. The look-alikes of a batch are then the partners of its harmful
    prompts."""
    contrast_margin: Annotated[Number, Range()] = 4.0
    """The difference of these log-odds that is wanted, nats."""
    contrast_pairs: Annotated[Count, Range(0)] = 0
    """Further pairs in a batch that are contrasted, and whose answers are not learned."""
    rows_per_exit: Annotated[Count, Range(0)] = 0
    """Tokens at which each exit of a step is supervised, sampled anew; 0 takes all of a batch."""
    beta: Annotated[Number, Range(0)] = 0.1
    """With --method dpo: DPO's beta, the strength of the KL constraint to the base model."""
    chosen_weight: Annotated[Number, Range(0)] = 1.0
    """With --method dpo: weight of an added cross-entropy loss on the preferred answer; at 0 its
    probability may fall together with the rejected answer's."""


@dataclass(frozen=True)
class Trained:
    """The parameters that are trained."""

    train: Literal["lora", "weights", "lens"] = "lora"
    """Low-rank factors (LoRA), the weights themselves, or a lens: an affine map for each of --exits
    that its residual stream passes before it is unembedded, while the model stays as it is."""
    start: Annotated[str, tyro.conf.arg(metavar="ADAPTER")] | None = None
    """Begin from what this adapter has learned, in the same form, instead of from nothing."""
    leaves: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = MATRICES
    """Parameters that are trained in each of --layers, by name; with --train weights also
    attn_norm, mlp_norm, embed, norm and head."""
    layers: Annotated[str, tyro.conf.arg(metavar="LAYERS")] = "all"
    """Layers that are trained, such as 16-30."""
    rank: Annotated[Count, COUNT] = 8
    """Rank of LoRA's factors, or of a lens."""
    alpha: Annotated[Number, Range(0)] = 16.0
    """LoRA alpha: the product of the factors is scaled by alpha / rank."""


@dataclass(frozen=True)
class TrainingData:
    """Prompts and answers to learn from, and the mixture of a batch."""

    harmful_prompts: PromptSets = ("builtin:harmful/train",)
    """Prompts to be refused, as for `jaxdepth sweep --prompts`."""
    columns: Columns = ()
    """Which columns of their files hold what, as for `jaxdepth sweep --columns`."""
    benign_answers: Annotated[str, tyro.conf.arg(metavar="FILE")] = "builtin"
    """Benign prompts with answers: builtin (SmolLM2's own answers), or a file made by
    tools/make_benign.py."""
    refuse_random: bool = False
    """A control: refuse a random half of the harmful prompts and of the look-alikes, whatever they
    ask."""
    harmful: Annotated[Count, Range(0)] = 2
    """Harmful prompts in a batch."""
    answered: Annotated[Count, Range(0)] = 0
    """Harmful prompts in a batch that early exits learn to answer as the untuned model does, from
    its distribution over its own answer; full depth does not learn it."""
    lookalike: Annotated[Count, Range(0)] = 2
    """Harmless look-alikes of harmful prompts in a batch."""
    hard: Annotated[Count, Range(0)] = 0
    """Other harmless prompts that look harmful in a batch."""
    benign: Annotated[Count, Range(0)] = 4
    """Other benign prompts in a batch."""
    borderline: Annotated[Count, Range(0)] = 0
    """Borderline prompts, answered in part, in a batch."""
    answer_tokens: Annotated[Count, COUNT] = 32
    """Maximum number of supervised tokens of an answer."""
    date: Annotated[str | None, tyro.conf.arg(metavar="YYYY-MM-DD")] = None
    """The day that a chat template is told, if it prints one; by default today, or for a run that
    is resumed the day on which it began."""


@dataclass(frozen=True)
class Optimisation:
    """The optimiser, AdamW."""

    steps: Annotated[Count, COUNT] = 400
    """Optimiser steps."""
    accumulate: Annotated[Count, COUNT] = 1
    """Batches per step (gradient accumulation)."""
    learning_rate: Annotated[float, tyro.conf.arg(metavar="RATE"), Range(0)] = 1e-3
    """Peak learning rate."""
    warmup: Annotated[Count, Range(0)] = 20
    """Steps of linear learning-rate warm-up; a cosine decay to 0 follows."""
    weight_decay: Annotated[Number, Range(0)] = 0.0
    """AdamW weight decay."""
    clip: Annotated[Number, Range(0)] = 1.0
    """Maximum global norm of a gradient (gradient clipping)."""
    remat: bool = False
    """Rematerialise layers in the backward pass: less memory, more time."""
    save_every: Annotated[Count, COUNT] = 20
    """Steps between two checkpoints of the training state."""


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Tune a checkpoint to refuse, at full depth only or at every exit; write an adapter."""

    model: ModelPath
    """A checkpoint made by `jaxdepth convert`."""
    dtype: DType | None = None
    """dtype of the base model and of activations; what is trained is always float32."""
    supervision: Supervision = Supervision()
    trained: Trained = Trained()
    data: TrainingData = TrainingData()
    optimisation: Optimisation = Optimisation()
    devices: Devices = Devices()
    output: Output = Output(Path("runs/tune"))
