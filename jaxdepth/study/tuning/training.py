"""The training loop of a tuning run: batches, steps, and what is saved between them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxdepth.depth.layer_scan import Backward
from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.sharding import reshard, state_shardings
from jaxdepth.model.tuned import Form, Params, init_params
from jaxdepth.runtime import preemption
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.study.run_directory import Run
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.study.tuning.state import load_checked_state, save_checked_state
from jaxdepth.study.tuning.tables import LOSS
from jaxdepth.tune.batches import Batches, pad_together
from jaxdepth.tune.loss import Contrast
from jaxdepth.tune.recipe import Recipe
from jaxdepth.tune.train import (
    Losses,
    LossOf,
    Micro,
    State,
    make_optimizer,
    make_step,
    preference,
    schedule,
    supervised,
)

_STATE = "state"


@dataclass(frozen=True)
class Training:
    """What is trained, on which batches, and which exits are supervised."""

    settings: Tune
    base: Mistral
    form: Form
    recipe: Recipe
    batches: Batches
    new_tokens: int
    contrast: Contrast | None = None
    start: Params | None = None  # what is begun from; None is what changes nothing

    @property
    def loss(self) -> LossOf:
        s = self.settings.supervision
        backward = Backward(self.settings.optimisation.remat, self.form.frozen)
        if s.method == "dpo":
            return preference(s.beta, s.chosen_weight, backward)
        by_base = bool(self.batches.mix.get("answered"))
        return supervised(self.recipe.distills, backward, by_base=by_base, contrast=self.contrast)

    def microbatches(self, step: int, exits: list[int]) -> Micro:
        """The batches of a step, stacked."""
        s = self.settings
        make = self.batches.preferred if s.supervision.method == "dpo" else self.batches.supervised
        accumulate = s.optimisation.accumulate
        batches = pad_together([make(step * accumulate + n) for n in range(accumulate)])
        micros = []
        for n, batch in enumerate(batches):
            seed = (s.output.seed, step, n)
            keep_LB = self.kept_layers(len(batch.targets.tokens_BS), (*seed, 3))
            weights = self.recipe.weights(exits, batch, (*seed, 4))
            micros.append(Micro(batch.targets, weights, keep_LB))
        return jax.tree.map(lambda *arrays: np.stack(arrays), *micros)

    def kept_layers(self, sequences: int, seed: tuple[int, ...]) -> Bool[np.ndarray, "L B"] | None:
        """Which layers each sequence runs under layer dropout; None runs all.

        Source of the rates: LayerSkip (arXiv:2404.16710), eq. 2.
        """
        dropout, depth = self.settings.supervision.layer_dropout, self.recipe.depth
        if not dropout:
            return None
        rate_L = dropout * (2.0 ** (np.arange(depth) / max(depth - 1, 1)) - 1)
        return np.random.default_rng(seed).random((depth, sequences)) >= rate_L[:, None]


def train(run: Run, training: Training, bar: ProgressBar) -> State:
    """Train from the last saved state of the run to the last step; write the table of losses.

    Raises:
        InputError: a loss or a gradient is not finite, or the saved state is damaged.
        Stopped: the process has received SIGTERM; the state so far is saved.
    """
    o, seed = training.settings.optimisation, training.settings.output.seed
    optimizer = make_optimizer(o.learning_rate, o.warmup, o.steps, o.weight_decay, o.clip)
    state, shardings = _initial_state(training, optimizer)
    state = load_checked_state(run.path / _STATE, state) or state
    train_step = make_step(training.form, training.loss, optimizer, shardings)
    learning_rate = schedule(o.learning_rate, o.warmup, o.steps)
    rows: list[dict[str, Any]] = []
    first = saved = int(state.step)
    with bar("tuning", "steps") as progress:
        progress(first, o.steps)
        for step in range(first, o.steps):
            exits = training.recipe.exits(seed, step)
            state, losses = train_step(state, training.base, training.microbatches(step, exits))
            means = dict(zip(Losses._fields, map(float, losses), strict=True))
            # A gradient that is none leaves parameters that are none: they are never saved.
            if not (np.isfinite(means["loss"]) and np.isfinite(means["grad_norm"])):
                kept = f"the state after {saved} steps is kept in {run.path / _STATE}"
                raise InputError(
                    f"the loss of step {step} is {means['loss']:g} and the norm of its gradient "
                    f"{means['grad_norm']:g}: lower learning_rate, or tune with --dtype float32; "
                    f"{kept if saved else 'no state was saved before'}"
                )
            row = {"step": step, "learning_rate": float(learning_rate(step)), "exits": exits}
            rows.append(row | means)
            done, stop = step + 1, preemption.stop_requested()
            if stop or done % o.save_every == 0 or done == o.steps:
                # The rows first: were the state saved without them, they would never be made.
                run.write_part(LOSS.name, rows[0]["step"], LOSS.from_rows(rows))
                save_checked_state(run.path / _STATE, done, state)
                rows, saved = [], done
            progress(done, o.steps)
            if stop and done < o.steps:
                raise preemption.Stopped
    if not run.finished(LOSS.name):
        run.finish_parts(LOSS.name)
    return state


def _initial_state(training: Training, optimizer) -> tuple[State, Any]:
    """The state before the first step, and its shardings on the mesh (None without one)."""
    base, key = training.base, jax.random.key(training.settings.output.seed)
    params = training.start or init_params(base, training.form, training.new_tokens, key)
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    if base.mesh is None:
        return state, None
    shardings = state_shardings(state, base.config, base.mesh)
    return reshard(state, shardings), shardings
