"""Settings of plans and benchmarks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdepth.ranges import COUNT, POSITIVE, Range
from jaxdepth.study.settings import Devices, DType, ModelPath

Count = Annotated[int, tyro.conf.arg(metavar="N"), COUNT]


@dataclass(frozen=True)
class Bench:
    """Time all exits together against one run at full depth, in turn in this process."""

    model: ModelPath
    """A checkpoint made by `jaxdepth convert`."""
    batches: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N"), COUNT] = (1, 4, 16)
    """Batch sizes to time, in prompts."""
    length: Count = 48
    """Length of a prompt, in tokens."""
    new_tokens: Count = 16
    """New tokens of every lane (one sample of a prompt at an exit)."""
    rounds: Count = 5
    """Timed runs of each program."""
    loop: bool = True
    """Also time a loop over the exits, one run for each, which takes long."""
    peers: bool = True
    """Also time Hugging Face's model and llama.cpp, where torch and xllamacpp are installed."""
    devices: Devices = Devices()


@dataclass(frozen=True)
class Plan:
    """Estimate what a sweep and a tuning step need on devices that this machine does not have."""

    model: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]]
    """A converted checkpoint, a folder with a config.json, or a config.json; weights are not
    needed."""
    topology: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """A TPU slice by its name, such as v5e:4x4; needs jaxdepth[tpu]."""
    gpus: Annotated[int | None, tyro.conf.arg(metavar="N"), COUNT] = None
    """Plan for N GPUs instead, one by default. Their programs need jaxdepth[cuda] but no GPU;
    without it those of as many virtual CPU devices stand in for them."""
    gpu: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    """Their kind: A100, H100 (the default) or H200."""
    gpu_memory: Annotated[float | None, tyro.conf.arg(metavar="GB"), POSITIVE] = None
    """Memory of each GPU in GB, where it differs from the kind's."""
    mesh: Annotated[str, tyro.conf.arg(metavar="SIZES")] = "data=1"
    """Device mesh, such as data=4,model=4: the product of its sizes is the number of devices."""
    prompts: Count = 64
    """Prompts in a batch."""
    length: Count = 256
    """Length of a prompt, in tokens."""
    new_tokens: Count = 64
    """New tokens of every lane (one sample of a prompt at an exit)."""
    exits: Annotated[str, tyro.conf.arg(metavar="EXITS")] = "all"
    """Exits to run: all, or numbers and ranges such as 1,8,16-30."""
    samples: Count = 1
    """Samples per prompt and exit."""
    dtype: DType = "bfloat16"
    """dtype of weights and activations."""
    study_prompts: Count = 1000
    """Prompts of the whole sweep."""
    sequences: Annotated[int, tyro.conf.arg(metavar="N"), Range(0)] = 16
    """Sequences of a tuning step (LoRA of rank 8 on all layers, three exits and full depth); 0
    omits the tuning step."""

    @property
    def cards(self) -> tuple[int, str] | None:
        """How many GPUs are planned for, and their kind; None: none are named."""
        if self.gpus is None and self.gpu is None:
            return None
        return 1 if self.gpus is None else self.gpus, self.gpu or "H100"
