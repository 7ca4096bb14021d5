"""compressed-tensors: inputs in an order of their own, and groups of settings that differ.

What is expected is computed from the specification by plain loops, in `packing.packers`: the
library's `quantization/lifecycle/forward.py` of version 0.12 (`g_idx`; later ones write none), and
`quant_config.py` and `quant_scheme.py` of 0.20 (groups).
"""

from functools import partial

import numpy as np
import pytest
from packing import packers
from packing.cases import compressed, group, per_group, per_output
from test_quantised import CONFIG, RAW, write_source
from test_quantised import quantised_tensors as packed_by
from tiny import hf_tensors
from tiny_source import assert_holds

from jaxdepth import InputError
from jaxdepth.weights.convert import convert

INT4 = {"num_bits": 4, "strategy": "group", "group_size": 32}
ORDERED = INT4 | {"actorder": "group"}
in_order = partial(per_group, bits=4, packed=True)
MLP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("name", "packed", "zero"),
    [("group", True, False), ("group", False, True), ("dynamic", True, True), (True, False, False)],
)
def test_inputs_in_an_order_of_their_own(tmp_path, name, packed, zero):
    bits = 4 if packed else 8
    settings = ORDERED | {"actorder": name, "symmetric": not zero, "num_bits": bits}
    kind = "pack-quantized" if packed else "int-quantized"
    pack = partial(per_group, bits=bits, packed=packed, zero=zero, order=True)
    written, dense = packed_by(pack)
    assert (np.diff(written[f"{MLP}.weight_g_idx"]) < 0).any()
    convert(
        write_source(tmp_path / "hf", compressed(kind, group(**settings)), written), tmp_path / "m"
    )
    assert_holds(tmp_path / "m", dense, RAW)


def test_an_order_that_was_never_set_is_none(tmp_path):
    """The library begins with -1 everywhere, and reads one -1 as none."""
    written, dense = packed_by(in_order)
    for name in list(written):
        if name.endswith("weight_packed"):
            inputs = dense[name.replace("weight_packed", "weight")].shape[1]
            written[name.replace("weight_packed", "weight_g_idx")] = np.full(inputs, -1, np.int32)
    settings = compressed("pack-quantized", group(**ORDERED))
    convert(write_source(tmp_path / "hf", settings, written), tmp_path / "m")
    assert_holds(tmp_path / "m", dense, RAW)


@pytest.mark.parametrize("order", ["weight", "static"])
def test_an_order_of_calibration_alone_is_in_no_file(tmp_path, order):
    written, dense = packed_by(in_order)
    settings = compressed("pack-quantized", group(**INT4, actorder=order))
    convert(write_source(tmp_path / "hf", settings, written), tmp_path / "m")
    assert_holds(tmp_path / "m", dense, RAW)


@pytest.mark.parametrize(
    ("g_idx", "settings", "message"),
    [
        (None, ORDERED, r"up_proj has no weight_g_idx"),
        (np.arange(64) // 16, ORDERED, r"up_proj.weight: g_idx names group 3, expected 0 to 1"),
        (np.arange(64) // 32 - 2, ORDERED, r"g_idx names group -2"),
        (np.arange(64) // 33, ORDERED, r"g_idx has 33 inputs in one group, expected 32"),
        (np.arange(63) // 32, ORDERED, r"g_idx is I64 \(63,\), expected"),
        (np.zeros(64), ORDERED, r"g_idx is F64"),
        (None, INT4 | {"actorder": "random"}, r"'actorder': 'random'"),
        (None, {"num_bits": 8, "actorder": "group"}, r"strategy 'channel' .*not implemented"),
    ],
)  # fmt: skip
def test_orders_that_make_no_sense(tmp_path, g_idx, settings, message):
    written, _ = packed_by(partial(in_order, order=True))
    written.pop(f"{MLP}.weight_g_idx")
    if g_idx is not None:
        written[f"{MLP}.weight_g_idx"] = g_idx
    settings = compressed("pack-quantized", group(**settings))
    with pytest.raises(InputError, match=message):
        convert(write_source(tmp_path / "hf", settings, written), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_an_order_without_groups_is_refused(tmp_path):
    """The library ignores it, other programs do not."""
    written, _ = packed_by(per_output)
    written[f"{MLP}.weight_g_idx"] = np.zeros(64, np.int32)
    source = write_source(tmp_path / "hf", compressed("int-quantized", group()), written)
    with pytest.raises(InputError, match=r"up_proj has weight_g_idx, but the strategy 'channel'"):
        convert(source, tmp_path / "m")


def mixed_tensors(parts_of):
    """Tensors in which each matrix is packed by the first packer whose text is in its name."""
    rng, written, dense = np.random.default_rng(0), {}, {}
    for name, array in hf_tensors(CONFIG).items():
        pack = next((pack for text, pack in parts_of.items() if text in name), None)
        parts, dense[name] = ({"weight": array}, array) if pack is None else pack(rng, array.shape)
        module = name.removesuffix(".weight")
        written |= {f"{module}.{role}": part for role, part in parts.items()}
    return written, dense


EIGHT = group(type="float") | {"targets": ["re:.*self_attn.*"], "format": "float-quantized"}
FOUR = group(**INT4, symmetric=False) | {
    "targets": ["re:.*(gate|up)_proj"],
    "format": "pack-quantized",
}
WHOLE = group(strategy="tensor") | {"targets": ["Linear"], "format": "int-quantized"}
CACHE = {"targets": ["MistralAttention"], "weights": None, "input_activations": {"num_bits": 8}}
PARTS = {
    "self_attn.": partial(packers.fp8, scale="weight_scale", channel=True),
    "gate_proj": partial(in_order, zero=True),
    "up_proj": partial(in_order, zero=True),
    "down_proj": packers.integers,
}


@pytest.mark.parametrize("groups", [(EIGHT, FOUR, WHOLE), (WHOLE, CACHE, FOUR, EIGHT)])
def test_groups_of_settings_that_differ(tmp_path, groups):
    written, dense = mixed_tensors(PARTS)
    source = write_source(tmp_path / "hf", compressed("mixed-precision", *groups), written)
    convert(source, tmp_path / "m")
    assert_holds(tmp_path / "m", dense, RAW)


def test_groups_that_differ_in_nothing_that_weights_depend_on(tmp_path):
    """What is rounded of the activations, and whether zero points had to be zero."""
    written, dense = packed_by(partial(per_output, zero=True))
    groups = group(symmetric=False), group() | {"input_activations": {"num_bits": 8}}, group()
    source = write_source(tmp_path / "hf", compressed("int-quantized", *groups), written)
    convert(source, tmp_path / "m")
    assert_holds(tmp_path / "m", dense, RAW)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((EIGHT, FOUR), r"down_proj.weight is I8"),  # it fits none
        ((EIGHT, WHOLE), r"weight_packed is I32"),
        ((EIGHT, FOUR, WHOLE | {"format": "nvfp4-pack-quantized"}), r"format 'nvfp4-pack-quant"),
        ((EIGHT, FOUR, WHOLE, group(num_bits=3)), r"weights of 3 bits"),
        ((EIGHT, FOUR, WHOLE, group(type="float", num_bits=4)), r"weights of 4 bits, type 'float'"),
        ((EIGHT, FOUR, WHOLE | {"sparsity": "2:4"}), r"'group_2' with sparsity: not implemented"),
        ((EIGHT, FOUR, ["Linear"]), r"'group_2' is \['Linear'\], expected settings"),
        ((EIGHT, FOUR, group() | {"weights": [8]}), r"weights is \[8\], expected an object"),
        ((group(**INT4 | {"group_size": 33}), EIGHT, WHOLE), r"inputs, no multiple of .* 33"),
        ((CACHE,), r"no group of config_groups has settings for weights"),
    ],
)
def test_groups_that_are_not_understood_are_refused_by_name(tmp_path, groups, message):
    written, _ = mixed_tensors(PARTS)
    source = write_source(tmp_path / "hf", compressed("mixed-precision", *groups), written)
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_shapes_that_fit_two_groups_are_refused(tmp_path):
    """Blocks of 48 and of 47 rows are three in 128 rows: names alone would tell."""
    written, _ = packed_by(partial(packers.fp8, scale="weight_scale", block=(48, 64)))
    blocks = [group(type="float", strategy="block", block_structure=[n, 64]) for n in (48, 47)]
    source = write_source(tmp_path / "hf", compressed("float-quantized", *blocks), written)
    with pytest.raises(InputError, match=r"_proj fits several groups of quantization_config"):
        convert(source, tmp_path / "m")
