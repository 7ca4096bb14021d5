"""What every exit costs, against one run at full depth: ratios measured side by side.

All programs run in turn in one process, so that a busy machine slows them alike; medians are
compared, with the range beside them. Compilation is timed apart. The 16 tokens of every lane are
all spoken: nothing ends early.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from jaxdepth.depth.generation import generate
from jaxdepth.errors import at_least
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import chosen_mesh
from jaxdepth.runtime.profiling import use_compilation_cache
from jaxdepth.study.planning.settings import Bench
from jaxdepth.weights.export import model_tensor
from jaxdepth.weights.load import load
from jaxdepth.weights.tensor_map import HF_NAMES, tensor_map

FULL, ALL, LOOP, HF_FULL, HF_LOOP = (
    "one run, full depth",
    "all exits",
    "loop over exits",
    "Hugging Face, full depth",
    "Hugging Face, loop",
)


@dataclass(frozen=True)
class Row:
    """One program at one batch size."""

    prompts: int
    program: str
    new_tokens: int
    ratio: float  # of medians, to the faster of our and Hugging Face's run at full depth
    low: float  # over the rounds
    high: float
    compile_seconds: float


def bench(settings: Bench) -> Iterator[Row]:
    """Times the programs of `jaxdepth bench`; yields rows as they are measured.

    Raises:
        InputError: the checkpoint cannot be loaded, or a number is below 1.
    """
    at_least(1, length=settings.length, new_tokens=settings.new_tokens, rounds=settings.rounds)
    at_least(1, batches=min(settings.batches, default=0))
    use_compilation_cache()
    model, _ = load(settings.model, mesh=chosen_mesh(settings.devices.mesh))
    hf = _hugging_face(model, settings) if find_spec("torch") else None
    for prompts in settings.batches:
        tokens, lengths = random_prompts(model, prompts, settings.length)
        for new_tokens in (1, settings.new_tokens):
            programs = _programs(model, hf, tokens, lengths, new_tokens, settings.loop)
            yield from measure(prompts, new_tokens, programs, settings.rounds)


def random_prompts(model: Mistral, prompts: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Random token ids (B, S) that fill their length."""
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (prompts, length))
    return ids, np.full(prompts, length)


def measure(
    prompts: int, new_tokens: int, programs: dict[str, Callable[[], object]], rounds: int
) -> Iterator[Row]:
    """Runs each program once to compile, then all of them in turn, `rounds` times."""
    compiling = {name: _seconds(program) for name, program in programs.items()}
    times = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(_seconds(program))
    single = min(np.median(times[name]) for name in (FULL, HF_FULL) if name in times)
    for name, mine in times.items():
        ratios = np.array(mine) / single
        first = max(0.0, compiling[name] - float(np.median(mine)))
        yield Row(
            prompts,
            name,
            new_tokens,
            float(np.median(ratios)),
            float(ratios.min()),
            float(ratios.max()),
            first,
        )


def _programs(model, hf, tokens, lengths, new_tokens, loop) -> dict[str, Callable[[], object]]:
    depth = model.config.num_hidden_layers

    def say(*exits):
        return generate(model, tokens, lengths, exits, new_tokens)

    programs = {
        FULL: lambda: say(depth),
        ALL: lambda: say(*range(1, depth + 1)),
    }
    if loop:
        programs[LOOP] = lambda: [say(exit) for exit in range(1, depth + 1)]
    if hf is not None:
        programs[HF_FULL] = lambda: hf(tokens, new_tokens, [depth])
        if loop:
            programs[HF_LOOP] = lambda: hf(tokens, new_tokens, range(1, depth + 1))
    return programs


def _seconds(program: Callable[[], object]) -> float:
    start = time.perf_counter()
    program()  # gives numpy arrays: the work is done when it returns
    return time.perf_counter() - start


def _hugging_face(model: Mistral, settings: Bench):
    """The loop that everyone uses: set the number of layers, generate, repeat."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from jaxdepth.model.config import read_config

    _, raw = read_config(settings.model / "config.json")
    config = AutoConfig.for_model(**raw)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    hf.load_state_dict(_torch_state(model), strict=False)
    hf.generation_config.eos_token_id = None

    def run(tokens, new_tokens, exits):
        ids = torch.tensor(tokens)
        for exit in exits:
            hf.config.num_hidden_layers = exit
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
    import torch

    state = {}
    for tensor in tensor_map(model.config, HF_NAMES):
        array = np.array(model_tensor(model, tensor), np.float32)
        state[tensor.source] = torch.from_numpy(array)
    if model.config.tie_word_embeddings:
        state[HF_NAMES["head"]] = state[HF_NAMES["embed"]]
    return state
