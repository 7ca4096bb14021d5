"""Probes that guard early exits: fitted at the prompt's last token, calibrated, and kept in a file.

A probe's probabilities are calibrated on scores of prompts that it was not fitted to (Platt 1999):
the strength of its regularisation, which is chosen by how well it ranks, would otherwise decide
what a threshold means. The file names the prompts that it was fitted to, as they say too much of
how well it works.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.depth.guard import HarmProbe
from jaxdepth.errors import InputError
from jaxdepth.files import damaged_header, read_arrays, save_arrays
from jaxdepth.probing.fit import fit_logistic
from jaxdepth.probing.folds import cross_fit

FORMAT = "jaxdepth-harm-probes-1"


class Header(TypedDict):
    """What the metadata of a file of harm probes hold."""

    base: str
    names: list[str]
    prompts: list[str]


@dataclass(frozen=True)
class HarmProbes:
    """Probes by name, and what they were fitted to."""

    probes: Mapping[str, HarmProbe]
    base: str  # identity of the model: fingerprint of the checkpoint and digest of the adapter
    prompts: frozenset[str]  # digests of the texts of the prompts that they were fitted to

    def check_unseen(self, texts: Iterable[str], path: Path) -> None:
        """Raise InputError where one of these texts is among those that the probes were fitted to.

        Args:
            texts: of prompts whose answers are reported.
            path: the file, for the message.
        """
        seen = sum(text_digest(text) in self.prompts for text in texts)
        if seen:
            raise InputError(
                f"{path} was fitted to {seen} of these prompts, on which a guard looks better than "
                "it is: probe other prompts, or name others with --prompts"
            )


def text_digest(text: str) -> str:
    """The digest by which a file of probes names a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fit_harm_probe(
    x_JND: Float[np.ndarray, "J N D"],
    harmful_N: Bool[np.ndarray, " N"],
    fold_N: Int[np.ndarray, " N"],
    strengths_C: Sequence[float],
) -> HarmProbe:
    """Fit a calibrated logistic probe to each layer.

    It is the mean of the folds' probes, which `cross_fit` fits and chooses. Its log-odds are scaled
    and shifted so that those of prompts out of fold are calibrated.

    Args:
        x_JND: residual streams at the prompt's last token.
        harmful_N: the class of each prompt.
        fold_N: from `make_folds`.
        strengths_C: candidates for the inverse strength of the L2 penalty.

    Raises:
        InputError: as `cross_fit`.
    """
    fitted = cross_fit(x_JND, harmful_N, fold_N, strengths_C)
    everything_1N = np.ones((1, len(harmful_N)), bool)
    out_of_fold_JN1 = fitted.score_GN[..., None]
    scale_J11D, shift_J11 = fit_logistic(out_of_fold_JN1, harmful_N, everything_1N, [1.0])
    scaled_JD = fitted.weights_GFD.mean(axis=1) * scale_J11D[:, 0, 0]
    weights_JD = scaled_JD.astype(np.float32)
    bias_J = fitted.bias_GF.mean(axis=1) * scale_J11D[:, 0, 0, 0] + shift_J11[:, 0, 0]
    # What the centre takes away is added to the bias, as float32 has both.
    centre_JD = x_JND.mean(axis=1, dtype=np.float64).astype(np.float32)
    at_centre_J = (weights_JD.astype(np.float64) * centre_JD).sum(axis=1)
    return HarmProbe(weights_JD, centre_JD, (bias_J + at_centre_J).astype(np.float32))


def save_harm_probes(path: Path, probes: HarmProbes) -> None:
    """Write a file of probes (safetensors); its arrays are float32."""
    arrays = {
        f"{name}.{part}": np.ascontiguousarray(array, np.float32)
        for name, probe in probes.probes.items()
        for part, array in zip(HarmProbe._fields, probe, strict=True)
    }
    metadata = {"format": FORMAT, "base": probes.base, "names": list(probes.probes)}
    save_arrays(path, arrays, metadata | {"prompts": sorted(probes.prompts)})


def read_harm_probes(path: Path, base: str) -> HarmProbes:
    """Read the probes of a model.

    Args:
        path: a file from `save_harm_probes`, which `jaxdepth probe` writes.
        base: the identity of the model that they are to be read from.

    Raises:
        InputError: there is no file, it is damaged, it has other content, or it was made for
            another model.
    """
    if not path.is_file():
        raise InputError(f"no file of probes {path}: `jaxdepth probe` makes one")
    arrays, header = read_arrays(path, "a file of harm probes", FORMAT, Header)
    try:
        probes = {
            name: HarmProbe(*(arrays[f"{name}.{part}"] for part in HarmProbe._fields))
            for name in header["names"]
        }
    except KeyError as error:
        raise damaged_header(path, error) from None
    own, prompts = header["base"], frozenset(header["prompts"])
    if own != base:
        raise InputError(
            f"{path} was made for the model {own[:12]}, or with another adapter; this one is "
            f"{base[:12]}: probe this model, with its adapter"
        )
    return HarmProbes(probes, own, prompts)
