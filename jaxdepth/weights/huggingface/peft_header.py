"""Which matrices a PEFT adapter changes, by the names and shapes in its file, without the base."""

import re
from pathlib import Path
from typing import NamedTuple

from jaxdepth.model.parameters import MATRICES
from jaxdepth.weights.huggingface.peft import PEFT_WEIGHTS, PREFIX, Shapes
from jaxdepth.weights.huggingface.source import safetensors_headers
from jaxdepth.weights.quantised.packed import Header
from jaxdepth.weights.tensor_map import HF_NAMES


class PeftHeader(NamedTuple):
    """What the header of a PEFT adapter's file says."""

    layers: dict[str, list[int]]  # that have factors of each matrix, ascending
    shapes: Shapes  # of those matrices in the base
    ranks: list[int]  # ascending, each once
    tensors: dict[str, Header]  # all, those of no matrix included

    @property
    def all_layers(self) -> list[int]:
        """The layers in which any matrix has factors, ascending."""
        return sorted({layer for layers in self.layers.values() for layer in layers})


def read_peft_header(path: Path) -> PeftHeader:
    """Read the header of a PEFT folder's weights.

    Raises:
        InputError: the file is truncated, or no safetensors.
    """
    tensors = safetensors_headers(path / PEFT_WEIGHTS)
    layers: dict[str, set[int]] = {}
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    ranks: set[int] = set()
    for tensor, header in tensors.items():
        for name, pattern in _PATTERNS.items():
            match = pattern.fullmatch(tensor)
            if match is None or len(header.shape) != 2:
                continue
            layers.setdefault(name, set()).add(int(match["layer"]))
            if match["factor"] == "A":
                ranks.add(header.shape[0])
                inputs.setdefault(name, header.shape[1])
            else:
                outputs.setdefault(name, header.shape[0])
    return PeftHeader(
        {name: sorted(layers[name]) for name in MATRICES if name in layers},
        {name: (inputs.get(name, 0), outputs.get(name, 0)) for name in MATRICES if name in layers},
        sorted(ranks),
        tensors,
    )


def _pattern(name: str) -> re.Pattern[str]:
    """Matches the names of a matrix's factors."""
    before, after = HF_NAMES[name].removesuffix(".weight").split("{i}")
    start, end = re.escape(PREFIX + before), re.escape(after)
    return re.compile(rf"{start}(?P<layer>\d{{1,6}}){end}\.lora_(?P<factor>[AB])\.weight")


_PATTERNS = {name: _pattern(name) for name in MATRICES}
