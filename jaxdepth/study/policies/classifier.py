"""An exit classifier for a subject, from full depth's own answers to some prompts."""

from pathlib import Path

import numpy as np

from jaxdepth.depth.generation import generate
from jaxdepth.probing.exit_classifier import (
    agreement_examples,
    fit_exit_classifier,
    save_exit_classifier,
)
from jaxdepth.prompts.batches import make_batches
from jaxdepth.study.answers import memory_budget
from jaxdepth.study.atomic_files import write_once
from jaxdepth.study.subject import Subject
from jaxdepth.study.sweep.settings import Sweep

_MOST = 2000  # examples: fitting takes the cube of them


def write_exit_classifier(path: Path, subject: Subject, settings: Sweep) -> None:
    """Writes a classifier fitted on full depth's answers to the subject's prompts.

    Of more than 2,000 examples so many are drawn.
    """
    model, depth = subject.model, subject.model.config.num_hidden_layers
    new_tokens = settings.answers.max_new_tokens
    streams, agrees = [], []
    for batch in make_batches(subject.prompt_ids(), settings.prompts.batch_size, model.mesh):
        said = generate(
            model,
            batch.tokens_BS,
            batch.lengths_B,
            [depth],
            new_tokens,
            stop_tokens=subject.end_tokens,
            memory_budget=memory_budget(settings.decoding),
        )
        spoken_B, begins_B = said.lengths[:, 0], batch.lengths_B
        tokens_BS = np.pad(batch.tokens_BS, ((0, 0), (0, new_tokens)))
        for b, (begin, count) in enumerate(zip(begins_B, spoken_B, strict=True)):
            tokens_BS[b, begin : begin + count] = said.tokens[b, 0, :count]
        found = agreement_examples(model, tokens_BS, begins_B + spoken_B, begins_B)
        real = spoken_B[: len(batch.indices)].sum()  # rows that fill the batch come last
        streams.append(found.x_LND[:, :real])
        agrees.append(found.agrees_LN[:, :real])
    x_LND, agrees_LN = (np.concatenate(parts, axis=1) for parts in (streams, agrees))
    rng = np.random.default_rng(settings.output.seed)
    drawn = np.sort(rng.permutation(agrees_LN.shape[1])[:_MOST])
    classifier = fit_exit_classifier(x_LND[:, drawn], agrees_LN[:, drawn])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_once(path, lambda p: save_exit_classifier(p, classifier, subject.loaded.identity))
