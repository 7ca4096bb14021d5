"""The bar: how well a linear probe tells harmful prompts apart before any thought.

It reads the residual stream of the untouched model at the prompt's last token, is fitted on the
training pairs, and is evaluated on the prompts that the arms decide on. Layer and strength are
chosen by folds of the training pairs: for each exit among the layers that the exit runs.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError
from jaxdepth.model.sharding import to_host
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.fit import decide, fit_logistic
from jaxdepth.probing.folds import make_folds
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.datasets import HARMFUL, Prompt, prompts_digest
from jaxdepth.prompts.prompt import check_labelled
from jaxdepth.runtime.progress import ProgressBar
from jaxdepth.stats.ranking import auroc
from jaxdepth.study.loading import LoadedModel, device_provenance, load_model, run_date
from jaxdepth.study.prompting.sets import read_study_prompts, system_text
from jaxdepth.study.prompting.written import write_prompts
from jaxdepth.study.run_directory import Run
from jaxdepth.study.settings import AdaptedModel
from jaxdepth.study.thinking.settings import ThinkThenDecide
from jaxdepth.study.thinking.tables import PROBE_CHOICE, PROBE_SCORES


def fit_probe(settings: ThinkThenDecide, bar: ProgressBar) -> Run:
    """Fit the probe and score the prompts; a finished run is read.

    Raises:
        InputError: training prompts are among those that it is evaluated on, lack a class, or are
            too few for the folds; a layer or strength is wrong; or the run has other settings.
    """
    p = settings.probe
    train = read_study_prompts(replace(settings.prompts, limit=None), p.probe_prompts)
    prompts = read_study_prompts(settings.prompts)
    check_labelled([*train, *prompts], "verdicts are scored")
    check_disjoint(train, prompts)
    out = settings.output.out / "probe"
    date = run_date(settings.prompts.date, out)
    loaded = load_model(AdaptedModel(**vars(settings.model)), settings.devices, date)
    depth = loaded.model.config.num_hidden_layers
    exits = parse_exits(settings.decoding.exits, depth)
    layers = parse_exits(p.probe_layers, depth, "layer")
    if min(layers) > min(exits):
        raise InputError(
            f"probe_layers {p.probe_layers} leave none to exit {min(exits)}: add earlier layers"
        )
    resolved = {
        "command": "probe before the thought",
        **loaded.resolved,
        "dtype": str(loaded.model.embed[...].dtype),
        "prompts_sha256": prompts_digest(prompts),
        "probe_prompts_sha256": prompts_digest(train),
        "system": system_text(settings.prompts.system),
        "exits": exits,
        "probe_layers": layers,
        "probe_strengths": p.probe_strengths,
        "probe_folds": p.probe_folds,
        "seed": settings.output.seed,
    }
    run = Run.open(out, resolved, device_provenance(loaded.model))
    if run.finished(PROBE_SCORES.name) and run.finished(PROBE_CHOICE.name):
        return run
    size = settings.prompts.batch_size
    train_GND = last_residuals(loaded, train, layers, size, bar)
    harmful_N = np.array([prompt.label == HARMFUL for prompt in train])
    clusters = [prompt.cluster_id for prompt in train]
    area_GC = cross_validate(
        train_GND, harmful_N, clusters, p.probe_strengths, p.probe_folds, settings.output.seed
    )
    choices = [choose(area_GC, layers, p.probe_strengths, e) for e in exits]
    test_GND = last_residuals(loaded, prompts, layers, size, bar)
    everything_1N = np.ones((1, len(train)), bool)
    scores: dict[tuple[int, float], Float[np.ndarray, " N"]] = {}
    for layer, strength in set(choices):
        g = slice(layers.index(layer), layers.index(layer) + 1)
        probe = fit_logistic(train_GND[g], harmful_N, everything_1N, [strength])
        scores[layer, strength] = decide(probe, test_GND[g])[0, 0, 0]
    rows = [
        {"prompt_id": prompt.prompt_id, "exit": e, "layer": choice[0], "score": float(score)}
        for e, choice in zip(exits, choices, strict=True)
        for prompt, score in zip(prompts, scores[choice], strict=True)
    ]
    run.write_table(PROBE_SCORES.name, PROBE_SCORES.from_rows(rows))
    run.write_table(
        PROBE_CHOICE.name,
        PROBE_CHOICE.from_rows(
            {"layer": layer, "strength": strength, "auroc": float(area_GC[g, c])}
            for g, layer in enumerate(layers)
            for c, strength in enumerate(p.probe_strengths)
        ),
    )
    return run


def check_disjoint(train: Sequence[Prompt], prompts: Sequence[Prompt]) -> None:
    """Raise InputError where a prompt is both trained on and evaluated."""
    shared = {prompt.text for prompt in train} & {prompt.text for prompt in prompts}
    if shared:
        raise InputError(
            f"{len(shared)} prompts that the probe is fitted on are among those that are decided "
            "on: name other --prompts, or other --probe-prompts"
        )


def last_residuals(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    batch_size: int,
    bar: ProgressBar,
) -> Float[np.ndarray, "G N D"]:
    """The residual stream after some layers at the last token of each prompt, float32."""
    model = loaded.model
    ids = [written.ids for written in write_prompts(loaded.conversations, prompts)]
    x_GND = np.zeros((len(layers), len(prompts), model.config.hidden_size), np.float32)
    batches = make_batches(ids, batch_size, model.mesh)
    with bar("residual streams", "batches") as progress:
        for number, batch in enumerate(batches):
            last_B1 = batch.lengths_B[:, None] - 1
            h_BPJD = residuals(model, batch.tokens_BS, batch.lengths_B, last_B1)
            h_BJD = np.asarray(to_host(h_BPJD), np.float32)[: len(batch.indices), 0]
            x_GND[:, list(batch.indices)] = h_BJD[:, list(layers)].swapaxes(0, 1)
            progress(number + 1, len(batches))
    return x_GND


def cross_validate(
    x_GND: Float[np.ndarray, "G N D"],
    harmful_N: Bool[np.ndarray, " N"],
    clusters: Sequence[str],
    strengths: Sequence[float],
    folds: int,
    seed: int,
) -> Float[np.ndarray, "G C"]:
    """The mean AUROC over folds of whole pairs, each scored by a probe that trains on the others.

    Raises:
        InputError: fewer than 2 folds, or as in `make_folds` and `fit_logistic`.
    """
    if folds < 2:
        raise InputError(f"probe_folds is {folds}, expected at least 2")
    fold_N = make_folds(clusters, harmful_N, folds, seed)
    test_FN = fold_N == np.arange(folds)[:, None]
    area_GC = np.zeros((len(x_GND), len(strengths)))
    for g in range(len(x_GND)):  # a layer at a time: less memory
        probes = fit_logistic(x_GND[g : g + 1], harmful_N, ~test_FN, strengths)
        score_FCN = decide(probes, x_GND[g : g + 1])[0]
        area_GC[g] = np.mean(
            [
                auroc(score_CN[:, rows_N], harmful_N[rows_N])
                for score_CN, rows_N in zip(score_FCN, test_FN, strict=True)
            ],
            axis=0,
        )
    return area_GC


def choose(
    area_GC: Float[np.ndarray, "G C"],
    layers: Sequence[int],
    strengths: Sequence[float],
    exit_layer: int,
) -> tuple[int, float]:
    """The layer and strength that validate best among the layers that an exit runs.

    On ties the earliest layer, then the strongest regularisation.
    """
    order = np.argsort(strengths, kind="stable")
    is_run_G = np.array(layers) <= exit_layer
    among_GC = np.where(is_run_G[:, None], area_GC[:, order], -1.0)
    g, c = np.unravel_index(among_GC.argmax(), among_GC.shape)
    return layers[int(g)], strengths[int(order[c])]
