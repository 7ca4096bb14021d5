"""Steering a study's model along a direction that a probe run computed."""

from dataclasses import fields

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.steer import steer
from jaxdepth.probing.direction import directions_digest, find_direction, read_directions
from jaxdepth.study.run_directory import check_file
from jaxdepth.study.settings import Steering


def check_steering(settings: Steering) -> None:
    """Raise InputError for steering options without --steer, or --steer without a direction."""
    given = [
        f.name
        for f in fields(settings)
        if f.name != "steer" and getattr(settings, f.name) != f.default
    ]
    if settings.steer == "none" and given:
        raise InputError(f"{given[0]} is set, but nothing is steered: add --steer ablate or add")
    missing = [name for name in ("directions", "direction") if name not in given]
    if settings.steer != "none" and missing:
        raise InputError(f"--steer {settings.steer} needs --{missing[0]}")


def steer_model(model: Mistral, settings: Steering, fingerprint: str) -> Mistral:
    """Steer the model as the settings say; return the model itself where they say `none`.

    Raises:
        InputError: the directions are missing, damaged, or of a model with another fingerprint.
    """
    if settings.steer == "none":
        return model
    directions, direction = settings.directions, settings.direction
    assert directions is not None  # `check_steering` requires both
    assert direction is not None
    check_file(directions)
    layers = parse_exits(settings.steer_layers, model.config.num_hidden_layers, "layer")
    direction_D = find_direction(directions, direction, fingerprint)
    return steer(model, direction_D, layers, settings.steer, settings.steer_scale)


def resolved_steering(settings: Steering) -> dict:
    """What determines a steered run's numbers besides its settings."""
    if settings.directions is None:
        return {}
    return {"directions_sha256": directions_digest(settings.directions)}


def steering_provenance(settings: Steering) -> dict:
    """Where the directions come from, for run.json."""
    path = settings.directions
    return {
        "directions": None if path is None else str(path),
        "directions_adapter_sha256": None if path is None else read_directions(path).adapter,
    }
