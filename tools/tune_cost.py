"""What a step of tuning costs by how a batch runs: `tune_cost.py MODEL [--rounds 5]`.

Three forms of one batch take turns in one process: padded sequences with every token at every exit,
as in release 0.1.0; the same packed; packed with sampled tokens, as in
configs/tune/depth_robust.toml. Prints each one's share of the first one's time: medians, with the
range over rounds.
"""

import argparse
import functools
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxdepth
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.tune.batches import Batches, writer
from jaxdepth.tune.recipe import Recipe
from jaxdepth.tune.tasks import read_tasks
from jaxdepth.tune.train import Micro, State, make_optimizer, make_step, supervised

MIX = {"harmful": 3, "lookalike": 3, "hard": 1, "benign": 3}
EXITS, ROWS = [20, 24, 28], 128


def main() -> None:
    """Time the forms and print their shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model, tokenizer = jaxdepth.load(args.model, apart=False)
    tasks = read_tasks(read_prompts(["builtin:harmful/train"]), "builtin")
    write = writer(functools.partial(PromptEncoder, tokenizer), tokenizer.eos_token_id, None)
    plain = Batches(tasks, MIX, write, answer_tokens=32, seed=1, decision_tokens=4)
    depth = model.depth
    all_rows = Recipe(depth, tuple(EXITS), "every", "every", "distill", 0, 1.0, False)
    forms = {
        "sequences": (plain, all_rows),
        "packed": (replace(plain, packs=True), all_rows),
        "packed, sampled tokens": (
            replace(plain, packs=True), replace(all_rows, rows_per_exit=ROWS)
        ),
    }  # fmt: skip
    form = Form(layers=tuple(range(depth)))
    optimizer = make_optimizer(1e-3, 10, 100, 0.0, 1.0)
    step = make_step(form, supervised(True), optimizer)

    def seconds(name: str) -> float:
        batches, recipe = forms[name]
        batch = batches.supervised(0)
        micro = Micro(batch.targets, recipe.weights(EXITS, batch, (1,)), None)
        micro = jax.tree.map(lambda array: np.asarray(array)[None], micro)
        params = init_params(model, form, 0, jax.random.key(0))
        state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params))
        start = time.perf_counter()
        jax.block_until_ready(step(state, model, micro))
        return time.perf_counter() - start

    for name in forms:
        seconds(name)  # compiles
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name in forms:
            times[name].append(seconds(name))
    first = np.array(times["sequences"])
    for name, of_form in times.items():
        shares = np.array(of_form) / first
        share = np.median(of_form) / np.median(first)
        print(f"{name}: {share:.2f} ({shares.min():.2f}-{shares.max():.2f})")


if __name__ == "__main__":
    main()
