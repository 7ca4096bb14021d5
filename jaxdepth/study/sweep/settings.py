"""Settings of a sweep."""

from dataclasses import dataclass

from jaxdepth.study.settings import AdaptedModel, ExitStudy, Output


@dataclass(frozen=True, kw_only=True)
class Sweep(ExitStudy):
    """Run every prompt at every exit and write tables and figures."""

    model: AdaptedModel


def sweep_settings(study: ExitStudy, model: AdaptedModel, output: Output) -> Sweep:
    """A sweep of one model with the prompts, exits and answers of a larger study."""
    return Sweep(
        model=model,
        prompts=study.prompts,
        decoding=study.decoding,
        answers=study.answers,
        first_token=study.first_token,
        texts=study.texts,
        steering=study.steering,
        windows=study.windows,
        devices=study.devices,
        output=output,
    )
