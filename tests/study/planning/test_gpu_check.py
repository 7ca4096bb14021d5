"""tools/gpu_check.py at toy sizes on this machine's CPU."""

import importlib
import json
import math
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[3] / "tools"

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture
def gpu_parts(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return lambda name: importlib.import_module(f"gpu_parts.{name}")


def check_of(gpu_parts, out):
    return gpu_parts("shapes").Check(out, None, True, time.monotonic() + 600)


@pytest.mark.parametrize(
    ("part", "rows"),
    [
        ("ceilings", 3),
        pytest.param("tuning", 2, marks=pytest.mark.slow),
        pytest.param("parity", 10, marks=pytest.mark.slow),
        pytest.param("mistral_7b", 11, marks=pytest.mark.slow),
        pytest.param("kernels", 2, marks=pytest.mark.slow),
        pytest.param("peers", 6, marks=pytest.mark.slow),
    ],
)
def test_a_part_at_toy_sizes(gpu_parts, tmp_path, part, rows):
    if part == "peers":
        pytest.importorskip("torch")
    ceilings = ({"what": "matrix products, FLOP/s", "value": 1e11},
                {"what": "copy, bytes/s", "value": 1e10})  # fmt: skip
    (tmp_path / "ceilings.jsonl").write_text("\n".join(map(json.dumps, ceilings)))
    found = list(gpu_parts(part).measure(check_of(gpu_parts, tmp_path)))
    assert len(found) >= rows
    values = [row["value"] for row in found if row["value"] is not None]
    assert values
    assert all(math.isfinite(value) and value >= 0 for value in values)
    assert all(json.loads(json.dumps(row)) == row for row in found)


def test_flops_are_those_of_the_traced_program(gpu_parts):
    """What is counted by hand for decoding, against the matmuls of one step at one exit."""
    import jax
    import jax.numpy as jnp

    from jaxdepth.study.planning.flops import matmul_flops

    shapes, part = gpu_parts("shapes"), gpu_parts("mistral_7b")
    model = shapes.random_model(shapes.Check(Path(), None, True, 0).config, jnp.float32)
    two, three = (part._flops(model, 1, 0, tokens, [model.depth]) for tokens in (2, 3))

    def one_token(model):
        block = model.layer(jnp.int32(0))
        h = jnp.zeros((1, 1, model.config.hidden_size))
        q, k, v = block.project_step(h, *model.rope_at(jnp.zeros((1, 1), jnp.int32)))
        return block, q, k, v, model.unembed(h, jnp.array([4]))

    counted = matmul_flops(jax.jit(one_token).trace(model).jaxpr)
    c = model.config
    rest = 2 * c.hidden_size * (c.num_attention_heads * c.head_dim + 3 * c.intermediate_size)
    head = 2 * c.hidden_size * c.vocab_size
    assert three - two == (counted - head + rest) * c.num_hidden_layers + head


FAKE = """
import sys, time
from pathlib import Path
part, out = sys.argv[1], Path(sys.argv[sys.argv.index("--out") + 1])
with (out / f"{part}.jsonl").open("a") as file:
    print('{"what": "first", "measured": "1", "value": 1}', file=file, flush=True)
    if part == "ceilings":
        sys.exit("no card")
    time.sleep(60 if part == "mistral_7b" else 0)
    print('{"what": "done"}', file=file)
"""


def test_parts_are_resumed_stopped_and_named(tmp_path, import_tool, monkeypatch, capsys):
    package = tmp_path / "fake" / "gpu_parts"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(FAKE)
    check = import_tool("gpu_check")
    monkeypatch.setattr(check, "TOOLS", package.parent)
    monkeypatch.setattr(check, "LEAST_SECONDS", 1)
    out = tmp_path / "out"

    def run(*words) -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(out), *words])
        assert check.main() == 0
        assert "| parity: against this machine's CPU | first | 1 |" in capsys.readouterr().out
        return json.loads((out / "gpu_check.json").read_text())["not run"]

    ended = run("--minutes", "0.05", "--only", "parity", "ceilings", "mistral_7b")
    assert ended["ceilings"] == "failed: no card"
    assert ended["mistral_7b"].startswith("stopped after")
    assert ended["peers"] == "left out by --only"
    assert "parity" not in ended
    before = (out / "parity.jsonl").stat().st_mtime_ns
    assert set(run("--minutes", "0.001")) == {
        "ceilings",
        "mistral_7b",
        "peers",
        "tuning",
        "kernels",
    }
    assert (out / "parity.jsonl").stat().st_mtime_ns == before
    assert check.read_rows(out, "mistral_7b")[0]["what"] == "first"  # what was measured is kept
