"""What a certificate is of: the settings that decide how a run's model answers and is judged."""

from collections.abc import Mapping

# What may differ between the run that was certified and one that is checked: which prompts, how
# many samples of each, how they were batched. Every other setting must be the same.
_FREE = frozenset(
    "prompts limit batch_size generate_limit samples seed openers memory_gb keep_text "
    "prompts_sha256 date policy rules".split()
)
_WORDS = {"model_fingerprint": "model", "adapter_sha256": "adapter", "judge_identity": "judge"}


def system_of(settings: Mapping) -> dict:
    """The settings of a run that a certificate holds for."""
    free = _FREE | ({"exits"} if settings["command"] == "sweep" else frozenset())
    return {name: value for name, value in sorted(settings.items()) if name not in free}


def name_difference(certified: Mapping, system: Mapping) -> str | None:
    """The first setting that differs, in words; None where all are the same."""
    names = ["model_fingerprint", "adapter_sha256", *sorted({*certified, *system})]
    for name in names:
        if certified.get(name) != system.get(name):
            words = (_shorten(value) for value in (system.get(name), certified.get(name)))
            return "{} is {}, certified was {}".format(_WORDS.get(name, name), *words)
    return None


def _shorten(value) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else text[:12]
