"""The lines that `jaxdepth plan` prints."""

from jaxdepth.model.sharding import parse_mesh
from jaxdepth.study.planning.roofline import USABLE, Planned, Program
from jaxdepth.study.planning.settings import Plan

_HEAD = (
    "program", "arguments", "caches", "temporaries", "TFLOP", "read", "sent between chips",
    "time", "bound by", "instructions", "kernels", "weights read", "copied",
)  # fmt: skip
_COUNTED = 3  # the last columns, which only a GPU's programs have


def plan_lines(settings: Plan, planned: Planned) -> list[str]:
    """A table of the programs in Markdown, per chip, and sentences on what fits."""
    s = settings
    devices = s.topology or "{} x {}".format(*(s.cards or ()))
    sizes = ",".join(f"{name}={n}" for name, n in parse_mesh(s.mesh).items() if n > 1) or "data=1"
    is_counted = any(program.weights for program in planned.programs)
    is_stood_in = s.cards is not None and any(p.weights is None for p in planned.programs)
    devices += " (virtual CPU devices in their place)" if is_stood_in else ""
    head = _HEAD if is_counted else _HEAD[:-_COUNTED]
    lines = [
        f"{devices}, mesh {sizes}, {s.dtype}: {s.prompts} prompts of {s.length} tokens at once, "
        f"{s.new_tokens} new tokens at exits {s.exits}. Per chip; times are estimates: what the "
        "published figures of the chip allow.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *map(_row, planned.programs),
        *(f"| {name} | the compiler refuses it: **does not fit** |" for name in planned.refused),
        "",
    ]
    if is_counted:
        lines.append(
            "Kernels, and what is read of weights and copied of them, are counted in the programs; "
            "on the card itself autotuning may choose other products."
        )
    elif is_stood_in:
        lines.append(
            "Memory is what XLA plans for virtual CPU devices, which keep a float32 copy of 16-bit "
            "weights: on GPUs temporaries are smaller. With their own compiler (pip install "
            "'jaxdepth[cuda]', no GPU needed) the plan is that of their programs."
        )
    if planned.fits:
        worst = max(planned.programs, key=lambda p: p.peak_bytes)
        usable = USABLE * worst.chip.memory
        lines.append(
            f"It fits: {worst.name} holds {_bytes(worst.peak_bytes)} of {_bytes(usable)}. "
            f"The largest sweep that fits has {planned.largest} prompts at once."
        )
        lines.append(
            f"A sweep of {s.study_prompts} prompts: at least {_seconds(planned.study_seconds)}."
        )
    else:
        better = planned.nearest or "nothing with as many chips: take more, or a smaller model"
        lines.append(f"It does not fit. The nearest that does: {better}")
    return lines


def _row(p: Program) -> str:
    sent = ", ".join(f"{kind} {_bytes(size)}" for kind, size in sorted(p.collectives.items()))
    cells: tuple[str, ...] = (
        p.name, _bytes(p.arguments), _bytes(p.caches) if p.caches else "", _bytes(p.temporaries),
        f"{p.flops / 1e12:.3g}", _bytes(p.traffic), sent or "nothing", _seconds(p.seconds),
        p.bound_by if p.fits else f"{p.bound_by}; **does not fit**", f"{p.instructions:,}",
    )  # fmt: skip
    if p.weights:
        w = p.weights
        cells += f"{w.kernels:,}", _bytes(w.read), _bytes(w.copied) if w.copies else "nothing"
    return "| " + " | ".join(cells) + " |"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size / 10:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _seconds(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 1e-2 else f"{seconds * 1e3:.2g} ms"
