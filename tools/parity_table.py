"""Print the table of docs/parity.md: largest difference to Hugging Face's logits, float32.

    python tools/parity_table.py models/smollm2-135m-instruct

Reads the golden files in tests/golden, which tools/make_golden.py makes with torch.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxdepth

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS / "helpers"))


def tiny() -> tuple[int, float, float]:
    """Cases, largest difference over all exits, largest logit."""
    from parity_grid import full_product, special_cases
    from tiny import model_of, prompts

    golden = np.load(TESTS / "golden" / "tiny.npz")
    vmapped = jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0))
    cases = full_product() | special_cases()
    worst = [
        np.abs(
            np.asarray(vmapped(model_of(raw), *prompts(), jnp.arange(1, 5))) - golden[name]
        ).max()
        for name, raw in cases.items()
    ]
    return len(cases), max(worst), max(np.abs(golden[name]).max() for name in cases)


def smollm2(path: str) -> list[tuple[int, float, float]]:
    """Exit, largest difference, largest logit."""
    model, _ = jaxdepth.load(path)
    gold = np.load(TESTS / "golden" / "smollm2.npz")
    rows = []
    for e, exit_layer in enumerate(gold["exits"]):
        logits = np.asarray(
            jaxdepth.exit_logits(model, gold["tokens"], gold["lengths"], int(exit_layer))
        )
        some = np.abs(logits[:, gold["some"]] - gold["some_logits"][e]).max()
        top = np.take_along_axis(logits, gold["top"][e], -1)
        worst = max(some, np.abs(top - gold["top_logits"][e]).max())
        rows.append((int(exit_layer), worst, np.abs(gold["top_logits"][e]).max()))
    return rows


def main(path: str) -> None:
    count, worst, largest = tiny()
    print("| model | exits | largest difference | tolerance | largest logit |")
    print("|---|---|---|---|---|")
    print(f"| {count} tiny configs | 1-4 | {worst:.1e} | 1e-5 | {largest:.1f} |")
    for exit_layer, worst, largest in smollm2(path):
        print(f"| SmolLM2-135M-Instruct | {exit_layer} | {worst:.1e} | 1e-3 | {largest:.0f} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/parity_table.py MODEL (a converted SmolLM2)")
    main(sys.argv[1])
