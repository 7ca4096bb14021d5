"""An exit classifier for a subject, fitted on full depth's answers to its prompts."""

from pathlib import Path

import numpy as np

from jaxdepth.depth.generation import generate
from jaxdepth.probing.exit_classifier import (
    agreement_examples,
    fit_exit_classifier,
    save_exit_classifier,
)
from jaxdepth.study.answers import memory_budget
from jaxdepth.study.atomic_files import write_once
from jaxdepth.study.subject import Subject
from jaxdepth.study.sweep.settings import Sweep

_MAX_EXAMPLES = 2000  # the cost of fitting grows with the cube of their number


def write_exit_classifier(path: Path, subject: Subject, settings: Sweep) -> None:
    """Write a classifier fitted on full depth's answers to the subject's prompts.

    Of more than 2,000 tokens as many are sampled.
    """
    model, depth = subject.model, subject.model.config.num_hidden_layers
    new_tokens = settings.answers.max_new_tokens
    hidden_states, agreements = [], []
    for batch in subject.batches(subject.prompt_ids(), new_tokens):
        answers = generate(
            model,
            batch.tokens_BS,
            batch.lengths_B,
            [depth],
            new_tokens,
            stop_tokens=subject.end_tokens,
            memory_budget=memory_budget(settings.decoding),
        )
        answer_lengths_B, begins_B = answers.lengths[:, 0], batch.lengths_B
        tokens_BS = np.pad(batch.tokens_BS, ((0, 0), (0, new_tokens)))
        for b, (begin, length) in enumerate(zip(begins_B, answer_lengths_B, strict=True)):
            tokens_BS[b, begin : begin + length] = answers.tokens[b, 0, :length]
        examples = agreement_examples(model, tokens_BS, begins_B + answer_lengths_B, begins_B)
        # Padding rows come last.
        count = answer_lengths_B[: len(batch.indices)].sum()
        hidden_states.append(examples.x_LND[:, :count])
        agreements.append(examples.agrees_LN[:, :count])
    x_LND, agrees_LN = (np.concatenate(parts, axis=1) for parts in (hidden_states, agreements))
    rng = np.random.default_rng(settings.output.seed)
    sampled = np.sort(rng.permutation(agrees_LN.shape[1])[:_MAX_EXAMPLES])
    classifier = fit_exit_classifier(x_LND[:, sampled], agrees_LN[:, sampled])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_once(path, lambda p: save_exit_classifier(p, classifier, subject.loaded.identity))
