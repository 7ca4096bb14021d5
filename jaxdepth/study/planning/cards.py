"""Descriptions of GPUs for XLA's compiler: with one, no GPU and no driver are needed.

The facts of each card are those of the public files `a100_sxm_80`, `h100_sxm` and `h200` in
openxla/xla, `xla/backends/gpu/target_config/specs`. Cards whose facts are not published there are
left out.
"""

from dataclasses import dataclass
from importlib.util import find_spec

import jax
from jax.experimental import topologies

from jaxdepth.errors import InputError, one_line

PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")


@dataclass(frozen=True)
class Card:
    """What the compiler asks of a GPU; memory sizes in bytes."""

    name: str
    capability: int  # major; the minor is 0
    cores: int  # streaming multiprocessors
    lanes: int  # float32 units of each
    clock_ghz: float
    memory: int
    bandwidth: int  # bytes per second
    l2_cache: int
    shared_of_core: int
    shared_of_block: int  # at most


CARDS = {
    "A100": Card(
        "NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 85100068864, 2039040000000, 41943040, 167936,
        166912,
    ),
    "H100": Card(
        "NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 84942979072, 3352320000000, 52428800, 233472,
        232448,
    ),
    "H200": Card(
        "NVIDIA H200 141GB HBM3e", 9, 132, 128, 1.98, 151397597184, 4800000000000, 52428800,
        233472, 232448,
    ),
}  # fmt: skip


def has_compiler() -> bool:
    """Whether programs for NVIDIA GPUs can be compiled here: `jaxdepth[cuda]` is installed."""
    return any(find_spec("jax_plugins") and find_spec(plugin) for plugin in PLUGINS)


def described_gpus(kind: str, count: int) -> list[jax.Device]:
    """GPUs that this machine does not have, to compile for.

    Args:
        kind: one of `CARDS`.
        count: how many; 8 to a host, if there are more.

    Raises:
        InputError: the compiler refuses.
    """
    if count > 8 and count % 8:
        raise InputError(f"{count} GPUs are no whole hosts of 8: choose a multiple of 8")
    hosts = max(1, count // 8)
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            target_config=_target(CARDS[kind]),
            topology=f"1x{hosts}x{count // hosts}",
        ).devices
    except Exception as error:  # jaxlib raises several types
        raise InputError(f"no programs for {kind} can be compiled: {one_line(error)}") from None


def _target(card: Card) -> str:
    """XLA's `GpuTargetConfigProto` as text; sizes of blocks and registers are CUDA's own."""
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "shared_memory_per_block": 49152,
        "shared_memory_per_block_optin": card.shared_of_block,
        "shared_memory_per_core": card.shared_of_core,
        "core_count": card.cores,
        "fpus_per_core": card.lanes,
        "clock_rate_ghz": card.clock_ghz,
        "device_memory_size": card.memory,
        "memory_bandwidth": card.bandwidth,
        "l2_cache_size": card.l2_cache,
    }
    fields = " ".join(f"{name}: {value}" for name, value in info.items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {card.capability} }} "
        f'device_vendor: "NVIDIA Corporation" name: "{card.name}" }} platform_name: "CUDA" '
        f'dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{card.name}"'
    )
