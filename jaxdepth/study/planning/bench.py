"""Time all exits against one run at full depth.

All programs run in turn in one process, so that a busy machine slows them alike. Times are ratios
of medians, with their range; compilation is timed apart. No lane stops early.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from jaxtyping import Int

from jaxdepth.depth.generation import generate
from jaxdepth.errors import InputError
from jaxdepth.model.config import read_config
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import chosen_mesh
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.preemption import raise_if_stopped_here
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.study.planning import llama_cpp
from jaxdepth.study.planning.settings import Bench
from jaxdepth.weights.export import model_tensor
from jaxdepth.weights.load import load
from jaxdepth.weights.tensor_map import HF_NAMES, tensor_map

FULL, ALL, LOOP, HF_FULL, HF_LOOP, LLAMA_FULL, LLAMA_LOOP = (
    "one run, full depth",
    "all exits",
    "loop over exits",
    "Hugging Face, full depth",
    "Hugging Face, loop",
    "llama.cpp, full depth",
    "llama.cpp, loop",
)


@dataclass(frozen=True)
class Row:
    """One program at one batch size.

    The reference is the fastest run at full depth: this package's, Hugging Face's or llama.cpp's.
    """

    prompts: int  # in the batch
    program: str
    new_tokens: int  # of every lane
    ratio: float  # median time over the reference's median time
    low: float  # lowest time of all rounds over the same
    high: float  # highest
    compile_seconds: float  # of the first run beyond the median


def bench(settings: Bench) -> Iterator[Row]:
    """Time the programs of `jaxdepth bench`; yields rows as they are measured.

    Raises:
        InputError: the checkpoint cannot be loaded, or a number is below 1.
    """
    check_ranges(settings)
    if not settings.batches:
        raise InputError("no batches: name at least one batch size")
    use_compilation_cache()
    model, _ = load(settings.model, mesh=chosen_mesh(settings.devices.mesh))
    missing = missing_peers(settings)
    hf = None if "Hugging Face" in missing else _hugging_face(model, settings)
    for prompts in settings.batches:
        tokens, lengths = random_prompts(model, prompts, settings.length)
        with contextlib.ExitStack() as stack:
            llama = None
            if "llama.cpp" not in missing:
                room = settings.length + settings.new_tokens
                depths = depths_of_line(model.depth) if settings.loop else (model.depth,)
                llama = stack.enter_context(llama_cpp.servers(model, depths, prompts, room))
            for new_tokens in (1, settings.new_tokens):
                programs = _programs(model, hf, llama, tokens, lengths, new_tokens, settings.loop)
                yield from measure(prompts, new_tokens, programs, settings.rounds)


def missing_peers(settings: Bench) -> dict[str, str]:
    """The programs of others that are not run, and why.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    if not settings.peers:
        return dict.fromkeys(("Hugging Face", "llama.cpp"), "--no-peers")
    config, _ = read_config(settings.model / "config.json")
    reasons = {
        "Hugging Face": None if find_spec("torch") else "pip install torch",
        "llama.cpp": llama_cpp.why_not(config),
    }
    return {name: reason for name, reason in reasons.items() if reason}


def depths_of_line(depth: int) -> tuple[int, ...]:
    """The depths of which a loop over all of them is extrapolated."""
    return tuple(sorted({1, -(-depth // 2), depth}))


def random_prompts(
    model: Mistral, prompts: int, length: int
) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, " B"]]:
    """Random token ids without padding, and their lengths."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (prompts, length))
    return ids, np.full(prompts, length)


def measure(
    prompts: int, new_tokens: int, programs: dict[str, Callable[[], object]], rounds: int
) -> Iterator[Row]:
    """Run each program once to compile it, then all of them in turn, `rounds` times.

    Args:
        prompts: for the rows.
        new_tokens: for the rows.
        programs: functions by name, among them `FULL`; each returns when its work is done.
        rounds: how often each is timed.
    """
    first_seconds = {name: _seconds(program) for name, program in programs.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(_seconds(program))
    full = (FULL, HF_FULL, LLAMA_FULL)
    reference = min(np.median(times[name]) for name in full if name in times)
    for name, seconds in times.items():
        ratios = np.array(seconds) / reference
        compile_seconds = max(0.0, first_seconds[name] - float(np.median(seconds)))
        yield Row(
            prompts,
            name,
            new_tokens,
            float(np.median(ratios)),
            float(ratios.min()),
            float(ratios.max()),
            compile_seconds,
        )


def _programs(
    model, hf, llama, tokens, lengths, new_tokens, loop
) -> dict[str, Callable[[], object]]:
    depth = model.config.num_hidden_layers

    def run(*exits):
        return generate(model, tokens, lengths, exits, new_tokens)

    programs = {
        FULL: lambda: run(depth),
        ALL: lambda: run(*range(1, depth + 1)),
    }
    if loop:
        programs[LOOP] = lambda: [run(exit_layer) for exit_layer in range(1, depth + 1)]
    if hf is not None:
        programs[HF_FULL] = lambda: hf(tokens, new_tokens, [depth])
        if loop:
            programs[HF_LOOP] = lambda: hf(tokens, new_tokens, range(1, depth + 1))
    if llama is not None:
        programs[LLAMA_FULL] = lambda: llama[depth].run(tokens, new_tokens)
        if loop:
            programs[LLAMA_LOOP] = lambda: _line_of(llama, tokens, new_tokens)
    return programs


def _line_of(servers: Mapping[int, llama_cpp.LlamaCpp], tokens, new_tokens: int) -> float:
    """Seconds of a loop over all depths: the sum of the line through those of some."""
    runs = [functools.partial(server.run, tokens, new_tokens) for server in servers.values()]
    seconds = list(map(_seconds, runs))
    line = np.polynomial.Polynomial.fit(list(servers), seconds, min(1, len(servers) - 1))
    return float(line(np.arange(1, max(servers) + 1)).sum())


def _seconds(program: Callable[[], object]) -> float:
    """How long a program takes; one that returns seconds says so itself."""
    raise_if_stopped_here()
    start = time.perf_counter()
    own = program()  # returns numpy arrays, so its work is done
    return own if isinstance(own, float) else time.perf_counter() - start


def _hugging_face(model: Mistral, settings: Bench):
    """transformers' model with the same weights, truncated by its number of layers."""
    import torch  # optional
    from transformers import AutoConfig, AutoModelForCausalLM  # heavy

    _, raw = read_config(settings.model / "config.json")
    config = AutoConfig.for_model(**raw)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    hf.load_state_dict(_torch_state(model), strict=False)
    hf.generation_config.eos_token_id = None

    def run(tokens, new_tokens, exits):
        ids = torch.tensor(tokens)
        for exit_layer in exits:
            hf.config.num_hidden_layers = exit_layer
            with torch.no_grad():
                hf.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    pad_token_id=0,
                )
        hf.config.num_hidden_layers = model.config.num_hidden_layers

    return run


def _torch_state(model: Mistral) -> dict:
    import torch  # optional

    state = {}
    for tensor in tensor_map(model.config, HF_NAMES):
        array = np.array(model_tensor(model, tensor), np.float32)
        state[tensor.source] = torch.from_numpy(array)
    if model.config.tie_word_embeddings:
        state[HF_NAMES["head"]] = state[HF_NAMES["embed"]]
    return state
