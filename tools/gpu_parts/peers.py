"""What a user would do instead: Hugging Face's generate at one depth after the other.

The time of a run grows in line with its depth: a quarter and all of it are measured, and the line
through both is summed over all depths.
"""

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from gpu_parts.mistral_7b import ALL_EXITS, LENGTH
from gpu_parts.shapes import MISTRAL_7B, TOY, Check, random_tokens, row

WAYS = {
    "dynamic cache": {},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "static cache, compiled": {"cache_implementation": "static"},
}


def measure(check: Check) -> Iterator[dict]:
    """Rows of each way at 1 and 32 prompts."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        yield row("Hugging Face's loop", f"not run: {' and '.join(missing)} not installed")
        return
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    on_gpu = torch.cuda.is_available()
    if not on_gpu and not check.toy:
        yield row("Hugging Face's loop", "not run: torch sees no GPU")
        return
    device, new_tokens = ("cuda", 64) if on_gpu else ("cpu", 4)
    raw = TOY if check.toy else MISTRAL_7B
    config = MistralConfig(**{k: v for k, v in raw.items() if k != "model_type"},
                           sliding_window=None)  # fmt: skip
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = MistralForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    depth = raw["num_hidden_layers"]
    depths = depth // 4, depth

    def seconds(ids, exit_layer: int, way: str) -> float:
        model.config.num_hidden_layers = int(exit_layer)
        times = []
        for _ in range(3 if "compiled" in way else 2):  # the first ones compile
            start = _now(torch, on_gpu)
            with torch.no_grad():
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    pad_token_id=0,
                    **WAYS[way],
                )
            times.append(_now(torch, on_gpu) - start)
        return min(times)

    for prompts in (1, 32):
        tokens, _ = random_tokens(check.config, prompts, 16 if check.toy else LENGTH)
        ids = torch.tensor(tokens, dtype=torch.long, device=device)
        ours = check.measured("mistral_7b", ALL_EXITS.format(prompts))
        for way in WAYS:
            name = f"{prompts} x loop over {depth} depths, {way}"
            if "compiled" in way and not on_gpu:
                yield row(name, "not run: no GPU")
                continue
            line = np.polyfit(depths, [seconds(ids, e, way) for e in depths], 1)
            loop = float(np.polyval(line, range(1, depth + 1)).sum())
            ratio = "" if ours is None else f", {loop / ours:.1f} times all exits at once"
            yield row(name, f"{loop:.3g} s{ratio}", loop, "10 times" if ours else "")


def _now(torch, on_gpu: bool) -> float:
    """The time, once all work is done."""
    import time

    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()
