"""The tensors of a text model inside an image model."""

# Both layouts that are in use: transformers 4's, and 5's with the head outside.
_TEXT = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}
_IMAGE = ("vision_tower.", "multi_modal_projector.")


def text_name(name: str) -> str | None:
    """What the text model alone calls a tensor of an image model; None if it is no tensor of it."""
    for prefix, without in _TEXT.items():
        if name.startswith(prefix):
            return without + name.removeprefix(prefix)
    return None if name.removeprefix("model.").startswith(_IMAGE) else name
