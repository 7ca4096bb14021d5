"""The experiment on a tiny model: given adapters, what is not run, and what is refused."""

import json
from pathlib import Path

import jax
import pyarrow.parquet as pq
import pytest

import jaxdepth
from jaxdepth import InputError
from jaxdepth.commands.parsing import parse
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.refusal.protocol import read_protocol
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.thinking.arms import ARMS, Unit, check_adapter, training_differences
from jaxdepth.study.thinking.reading import check_alike
from jaxdepth.study.thinking.run import run_arms
from jaxdepth.study.thinking.settings import ThinkThenDecide
from jaxdepth.weights.adapter import Adapter, add_tokens, save_adapter
from jaxdepth.weights.checkpoint import read_manifest

pytestmark = pytest.mark.usefixtures("quick_programs")

SETS = ("builtin:pairs/test[:10]", "builtin:ordinary[:2]")


@pytest.fixture(scope="module")
def adapters(tiny_path, tmp_path_factory) -> Path:
    """A folder with untrained adapters of four arms: random rows for the new tokens."""
    folder = tmp_path_factory.mktemp("adapters")
    base, tokenizer = jaxdepth.load(tiny_path)
    fingerprint = read_manifest(tiny_path)["fingerprint"]
    protocol = read_protocol("tuned")
    tokens = (protocol.open, protocol.close, *protocol.verdicts[0])
    form = Form((3,), ("q",), rank=1, first_new=add_tokens(tokenizer, tokens))
    for seed, name in enumerate(("direct", "thought", "filler", "bottleneck")):
        params = init_params(base, form, len(tokens), jax.random.key(seed))
        rows = {
            key: 2.0 * jax.random.normal(jax.random.key(seed + 9), array.shape)
            for key, array in params.items()
            if key.endswith("_rows")
        }
        recorded = read_protocol(ARMS[name].protocol).record()
        made = {
            "method": "verdicts", "protocol": json.loads(json.dumps(recorded)),
            "thoughts": ARMS[name].thoughts, "seed": 1, "steps": 400 if seed else 200,
        }  # fmt: skip
        adapter = Adapter(form, params | rows, fingerprint, tokens, {"settings": made})
        save_adapter(folder / f"{name}-1.safetensors", adapter)
    return folder


def test_given_adapters_are_compared(tiny_path, adapters, tmp_path, run_experiment, capsys):
    out = tmp_path / "s"
    args = [tiny_path, "--out", out, "--prompts", *SETS, "--exits", "4", "--no-train"]
    args += ["--adapters", adapters, "--probe-prompts", "builtin:pairs/train[:24]"]
    args += ["--probe-layers", "3-4", "--probe-folds", 2, "--answer-tokens", 2, "--batch-size", 24]
    args += ["--spoken", "None", "--votes", 0, "--cuts", 0, "--answered", "direct-1"]
    assert run_experiment("think_then_decide", *args, "--only", "direct", "thought-1") == 0
    printed = capsys.readouterr().out
    for phrase in (
        "2 arms and a probe decided on the same prompts at 1 exit:",
        "Those of direct, thought hold for the one adapter that was tuned.",
        "Not the same training: thought-1 was tuned with steps = 400, direct-1 with 200.",
        "exit 4, thought - direct: ",
        "thought - thought (cut 0): ",
        "C15, votes and a second pass help: not run, it needs --votes",
        "C14, thinking before deciding helps small models:",
        "  not run: verdicts of arm bottleneck that a swapped thought flips",
    ):
        assert phrase in printed, phrase
    missing = [line for line in printed.splitlines() if line.startswith("not run: ")]
    units = ["direct-2", "direct-3", "thought-2", "thought-3", "same_verdict-1", "any-1"]
    units += ["filler-1", "bottleneck-1"]
    assert [line.split()[2].rstrip(";") for line in missing] == units
    for line, unit in zip(missing, units, strict=True):
        assert line.endswith(f"--answered direct-1 --only {unit}")
        assert line.count("--only") == 1
    assert (out / "findings.txt").read_text().splitlines()[0] in printed
    assert (out / "figures" / "arms.png").stat().st_size > 20_000
    # What stands in the tables is what decide wrote.
    metrics = pq.read_table(out / "arm_metrics.parquet").to_pandas()
    verdicts = read_frame(out / "decide" / "thought-1", "verdicts").set_index("prompt_id")
    labels = read_frame(out / "decide" / "thought-1", "prompts").set_index("prompt_id")["label"]
    cautious = verdicts["verdict"] != "comply"
    is_row = (metrics["arm"] == "thought") & (metrics["source"] == "verdict")
    is_row &= (metrics["metric"] == "balanced_accuracy") & (metrics["group"] == "all prompts")
    caught, over = (cautious[labels == label].mean() for label in ("harmful", "harmless"))
    assert metrics.loc[is_row, "value"].item() == pytest.approx((caught + 1 - over) / 2)
    arms = pq.read_table(out / "arms.parquet").to_pandas()
    assert arms["is_run"].sum() == 2
    assert arms.loc[arms["is_run"], "command"].isna().all()
    # Another call reads what is finished.
    again = parse(ThinkThenDecide, [*map(str, args), "--only", "direct"], "x", "think_then_decide")
    assert [r.unit.name for r in run_arms(again).units if r.path] == ["direct-1", "thought-1"]


def test_settings_that_make_no_sense(tiny_path, adapters, tmp_path, run_experiment):
    args = [tiny_path, "--out", tmp_path, "--prompts", *SETS, "--exits", "4", "--spoken", "None"]
    for more, message in (
        (("--exits", "1-3"), "leave out full depth: add 4"),
        (("--only", "thinker"), "no arm or seed of the plan"),
        (("--answered", "thinker-1"), "no arm with a seed"),
        (("--answered", "thought-4"), "answered thought-4 is not among direct-1, direct-2"),
        (("--probe-prompts", "builtin:pairs/test"), "are among those that are decided on"),
        (("--probe-layers", "5-6"), "5"),
        (("--adapters", f"direct-1={adapters / 'thought-1.safetensors'}"), "thought_tokens = 64"),
        (("--spoken", "builtin:spoken"), "or for another model"),
        (("--adapters", f"thought-1={adapters / 'filler-1.safetensors'}"), "thoughts = filler"),
    ):
        with pytest.raises(InputError, match=message):
            run_experiment("think_then_decide", *args, "--no-train", *more)


def test_adapters_say_how_they_were_tuned(adapters):
    path = {name: str(adapters / f"{name}-1.safetensors") for name in ("thought", "bottleneck")}
    with pytest.raises(InputError, match="verdict reads the thought alone"):
        check_adapter(Unit("thought", 1), path["bottleneck"])
    with pytest.raises(InputError, match="verdict_reads = None"):
        check_adapter(Unit("bottleneck", 1), path["thought"])
    with pytest.raises(InputError, match="not tuned with --method verdicts"):
        check_adapter(Unit("thought", 1), "builtin:spoken")
    same = {Unit("thought", 1): path["thought"], Unit("bottleneck", 1): path["bottleneck"]}
    assert training_differences(same) == []
    one = {"dtype": "float32", "exits": [2, 4]}
    check_alike(Path("b"), one, Path("a"), dict(one))
    with pytest.raises(InputError, match="b is a run with another exits than a"):
        check_alike(Path("b"), one | {"exits": [4]}, Path("a"), one)


@pytest.mark.slow
@pytest.mark.usefixtures("one_length")
def test_all_arms_are_tuned_and_compared(tiny_path, tmp_path, run_experiment, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        'method = "verdicts"\nexits = "2-3"\nexits_per_step = 1\nrank = 1\nharmful = 1\n'
        "lookalike = 1\nbenign = 1\nanswer_tokens = 4\nsteps = 400\n"
    )
    args = [tiny_path, "--out", tmp_path / "s", "--recipe", recipe, "--steps", 1, "--seeds", 1, 2]
    args += ["--prompts", *SETS, "--exits", "4", "--probe-prompts", "builtin:pairs/train[:24]"]
    args += ["--probe-folds", 2, "--probe-layers", "all", "--answer-tokens", 4, "--votes", 2]
    args += ["--votes-limit", 2, "--cuts", 0, "--batch-size", 24, "--spoken", "None"]
    assert run_experiment("think_then_decide", *args) == 0
    printed = capsys.readouterr().out
    assert "not run: " not in [line[:9] for line in printed.splitlines()]
    for phrase in (
        "6 arms and a probe",
        "direct, thought also hold for other training seeds",
        "C13, the justification",
        "2 votes",
        "bottleneck: a swapped thought",
    ):
        assert phrase in printed, phrase
