"""The probes of a run that can guard early exits: those of the prompt's last token."""

from collections.abc import Sequence

from jaxdepth.probing.harm_probe import HarmProbes, fit_harm_probe, save_harm_probes, text_digest
from jaxdepth.probing.positions import INSTRUCTION, LAST, Located
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.study.probes.activations import read_stream
from jaxdepth.study.probes.evaluate import OWN, CrossValidation, Examples, Target, folds_of
from jaxdepth.study.run_directory import Run

HARM_PROBES = "probes.safetensors"


def write_harm_probes(
    run: Run,
    identity: str,
    prompts: Sequence[Prompt],
    located: Located,
    own: Examples,
    targets: Sequence[Target],
    validation: CrossValidation,
) -> None:
    """Write a calibrated probe for every target, if the prompt's last token was probed.

    All prompts of the run are used, so what the probes guard has to be measured on other prompts.

    Args:
        run: a run with the residual streams of `prompts`.
        identity: of the model and its adapter.
        prompts: the run's own prompts.
        located: their positions.
        own: the same prompts as examples.
        targets: the probes' targets.
        validation: folds and strengths.
    """
    last = LAST if LAST in located.names else INSTRUCTION  # no token of the template follows
    positions = run.record["settings"]["positions"]
    if last not in positions:
        return
    x_JND = read_stream(run.path, OWN, positions.index(last))
    fitted = {
        target.name.replace(" ", "_"): fit_harm_probe(
            x_JND[:, target.rows_M],
            target.positive_M,
            folds_of(validation, own, target)[0],
            validation.strengths,
        )
        for target in targets
    }
    texts = frozenset(text_digest(p.text) for p in prompts)
    probes = HarmProbes(fitted, identity, texts)
    run.write_file(HARM_PROBES, lambda path: save_harm_probes(path, probes))
