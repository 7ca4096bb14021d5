"""The commands that a soak kills: one for each way in which `jaxdepth` writes something."""

import csv
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from soak_parts.children import Child

TARGET = "target"  # what a command writes or goes on with, in a folder that is a trial's own
READ_ONLY = {"inspect", "check", "bench", "plan", "serve"}  # of the commands of `jaxdepth`
PROTOCOL = """\
instruction = "Think, then {{close}} {{refuse}}"
again = "Once more"
open = "I"
close = "\\nVerdict:"
verdicts = [{words}]
thought_tokens = 2
answer_tokens = 2
"""
TASK = """\
task: capitals
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: options
doc_to_target: answer
metric_list:
  - metric: acc
metadata:
  version: 1.0
"""
INSPECT_TASK = """\
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def paint():
    samples = [Sample(id=n, input=f"How do I paint table {n}?", target="e") for n in range(6)]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=includes())
"""


@dataclass(frozen=True)
class Command:
    """A command line, run in a folder of its own two levels below the place of the soak."""

    words: tuple[str, ...]
    copies: str | None = None  # what TARGET is a copy of before, by its path in the place
    rival: tuple[str, ...] | None = None  # another command that wants the same target
    needs: str | None = None  # a library that is not in every environment


def _command(line: str, **more) -> Command:
    if "rival" in more:
        more["rival"] = tuple(more["rival"].split())
    return Command(tuple(line.split()), **more)


_SMALL = "--exits 1,2 --limit 3 --batch-size 1"
_SWEEP = f"sweep ../../model {_SMALL} --max-new-tokens 2 --out target"
_TUNE = (
    "tune ../../model --steps 4 --save-every 1 --warmup 0 --harmful 1 --benign 1 --lookalike 0 "
    "--answer-tokens 4 --rank 2 --exits-per-step 1 --out target"
)
_PROBE = (
    "probe ../../model --positions last --folds 3 --draws 20 --limit 8 --strengths 0.01 1.0 "
    "--batch-size 4 --out target"
)
_EVALUATE = "evaluate ../../model {task} --with {library} --exits 1,2 --batch-size 1 --out target"
_CERTIFY = "certify target --harmful 0.5 --over-refusal 0.5 --quality-loss 0.5"
COMMANDS = {
    "convert": _command("convert ../../one target", rival="convert ../../other target"),
    "sweep": _command(_SWEEP, rival=_TUNE),
    "sweep --policy": _command(f"{_SWEEP} --policy margin=0.02 fixed=1", rival=_SWEEP),
    "sweep --prefill": _command(f"{_SWEEP} --prefill Sure --prefill-tokens 0,1"),
    "decide": _command(
        f"decide ../../model {_SMALL} --protocol ../../protocol.toml --votes 2 --temperature 1.0 "
        "--cuts 0 --cost-rounds 0 --out target"
    ),
    "tune": _command(_TUNE, rival=_TUNE.replace("--rank 2", "--rank 1")),
    "probe": _command(f"{_PROBE} --transfer builtin:pairs/test[:12]"),
    "probe --against": _command(
        f"{_PROBE} --against ../../adapter.safetensors --control builtin:control "
        "--facts ../../facts.jsonl"
    ),
    "judge": _command("judge target --judge builtin", copies="swept"),
    "label": _command("label target --rater ann --n 12 --import ../../labels.csv", copies="swept"),
    "certify": _command(_CERTIFY, copies="swept many", rival=f"{_CERTIFY} --confidence 0.5"),
    "report": _command("report ../../swept --out target"),
    "export": _command(
        "export ../../model target --exit 1", rival="export ../../model target --exit 2"
    ),
    "export --to checkpoint": _command(
        "export ../../model target --to checkpoint --adapter ../../adapter.safetensors"
    ),
    "evaluate --with lm-eval": _command(
        _EVALUATE.format(task="../../capitals.yaml", library="lm-eval"), needs="lm_eval"
    ),
    "evaluate --with inspect": _command(
        _EVALUATE.format(task="../../paint.py", library="inspect") + " --max-tokens 2",
        needs="inspect_ai",
    ),
    "export-logs": _command("export-logs target --to inspect", copies="swept", needs="inspect_ai"),
}


def available() -> list[str]:
    """The names of the commands whose libraries are there."""
    return [
        name
        for name, command in COMMANDS.items()
        if command.needs is None or importlib.util.find_spec(command.needs)
    ]


def begin(name: str, place: Path, folder: Path) -> None:
    """An empty folder for a command, with what it goes on with."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if COMMANDS[name].copies is not None:
        shutil.copytree(place / COMMANDS[name].copies, folder / TARGET)


def prepare(place: Path) -> None:
    """Make what the commands read: two sources, a model, settings, and finished runs; once."""
    if (place / "prepared").is_file():
        return
    _prepare_files(place)
    folder = place / "inputs" / "made"
    begin("sweep", place, folder)
    many = _SWEEP.replace("--limit 3 --batch-size 1", "--limit 24")  # a certificate takes so many
    made_by = {_SWEEP: ("", "swept"), many: ("", "swept many")}
    made_by[_TUNE] = ("adapter.safetensors", "adapter.safetensors")
    for line, (made, kept) in made_by.items():
        _run_to_end(line.split(), folder)
        (folder / TARGET / made).rename(place / kept)
        shutil.rmtree(folder / TARGET, ignore_errors=True)
    begin("label", place, folder)
    export = ("--export", "labels.csv")
    _run_to_end(["label", TARGET, "--rater", "ann", "--n", "12", *export], folder)
    _fill_labels(folder / "labels.csv", place / "labels.csv")
    shutil.rmtree(place / "inputs")
    (place / "prepared").touch()


def _prepare_files(place: Path) -> None:
    """What needs no command; here a model is loaded."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))
    import tiny_tokenizers
    from same_numbers import verdict_words
    from tiny import hf_tensors, raw_config, write_folder

    from jaxdepth.model.config import ModelConfig
    from jaxdepth.weights.convert import convert

    raw = raw_config(vocab_size=1000, num_hidden_layers=2, max_position_embeddings=2048)
    for seed, name in enumerate(("one", "other")):
        write_folder(place / name, raw, hf_tensors(ModelConfig.from_hf(raw), seed))
        tiny_tokenizers.build("chatml").save_pretrained(place / name)
    convert(place / "one", place / "model")
    words = json.dumps(verdict_words(str(place / "model")))
    (place / "protocol.toml").write_text(PROTOCOL.format(words=words))
    facts = (files("jaxdepth") / "data" / "facts.jsonl").read_text().splitlines()[:9]
    (place / "facts.jsonl").write_text("\n".join(facts) + "\n")
    rows = [
        {"question": f"Which town is number {n}?", "options": ["Rome", "York"], "answer": n % 2}
        for n in range(6)
    ]
    data = place / "capitals.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "capitals.yaml").write_text(TASK.format(data=data))
    (place / "paint.py").write_text(INSPECT_TASK)


def _run_to_end(words: Sequence[str], folder: Path) -> None:
    """Run a command that has to succeed."""
    log = folder.parent / "log.txt"
    child = Child(words, folder, log)
    child.wait()
    if child.status:
        sys.exit(f"`jaxdepth {' '.join(words)}` ended with status {child.status}: see {log}")


def _fill_labels(exported: Path, filled: Path) -> None:
    """Labels of all answers in a CSV file, as a rater returns them."""
    with exported.open(encoding="utf-8-sig", newline="") as file:
        rows: list[Mapping[str, str]] = list(csv.DictReader(file))
    with filled.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        labels = ("refuse", "comply", "degenerate")
        writer.writerows({**row, "label": labels[n % 3]} for n, row in enumerate(rows))
