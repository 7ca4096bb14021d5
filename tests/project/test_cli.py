"""The command line as a user meets it: what it prints, its exit status, its errors."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import hf_tensors, raw_config, write_folder

import jaxdepth
from jaxdepth.cli import main
from jaxdepth.commands.parsing import COMMANDS, parse, settings_class
from jaxdepth.model.config import ModelConfig
from jaxdepth.settings_file import field_types
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.sweep.settings import Sweep

pytestmark = pytest.mark.usefixtures("quick_programs")
ROOT = Path(__file__).parents[2]


def run(capsys, *args) -> tuple[int, str, str]:
    try:
        status = main([str(a) for a in args])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def assert_one_line(err: str, says: str):
    """One line that names the trouble; what the progress bar left does not count."""
    lines = [line for line in err.splitlines() if line.startswith("jaxdepth: error: ")]
    assert len(lines) == 1, err
    assert says in lines[0]
    assert "Traceback" not in err


@pytest.fixture
def source(tmp_path):
    raw = raw_config()
    return write_folder(tmp_path / "source", raw, hf_tensors(ModelConfig.from_hf(raw)))


def test_convert_then_sweep(tmp_path, tiny_path, capsys):
    out = tmp_path / "run"
    args = ("sweep", tiny_path, "--out", out, "--limit", 4, "--exits", "1,3-4")
    args += ("--max-new-tokens", 4)
    status, printed, _ = run(capsys, *args)
    assert status == 0
    assert "At exit 4 refusal log-odds are" in printed
    assert "Unsafe window" in printed
    for name in ("refusal_log_odds", "agreement", "outcomes", "unsafe_window", "over_refusal"):
        assert f"  {out}/figures/{name}.png\n    " in printed
        for kind in ("png", "svg"):
            assert (out / "figures" / f"{name}.{kind}").stat().st_size > 5000
    svg = (out / "figures" / "refusal_log_odds.svg").read_text()
    assert "exit (layers run)" in svg
    assert "harmful - harmless, 95% band" in svg
    again = run(capsys, *args)
    assert again[:2] == (0, printed)
    # The rule of windows may change: their table is made anew, and nothing is generated again.
    status, printed, err = run(capsys, *args, "--unsafe-from", 0.2)
    assert status == 0
    assert "generations" not in err
    assert set(read_table(out, "windows")["unsafe_from"].to_pylist()) == {0.2}
    assert run(capsys, *args, "--competent-from", 2)[0] == 2


def test_one_label_has_no_difference(tmp_path, tiny_path, capsys):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("one\ntwo\nthree\n")
    status, printed, _ = run(
        capsys,
        *("sweep", tiny_path, "--out", tmp_path / "r", "--prompts", f"harmful={prompts}"),
        *("--max-new-tokens", 3, "--no-keep-text"),
    )
    assert status == 0
    assert set(read_table(tmp_path / "r", "generations")["text"].to_pylist()) == {None}
    assert "harmless (" not in printed
    assert "No harmless prompts were answered" in printed
    assert "Unsafe window" not in printed
    assert not (tmp_path / "r" / "figures" / "over_refusal.png").exists()
    args = ("--out", tmp_path / "s", "--prompts", "builtin:ordinary[:3]", "--exits", "4")
    status, printed, _ = run(capsys, "sweep", tiny_path, *args, "--max-new-tokens", 2)
    assert status == 0
    assert "harmless (n=3)" in printed


def test_convert(tmp_path, source, capsys):
    assert run(capsys, "convert", source, tmp_path / "m")[:2] == (
        0,
        f"{tmp_path / 'm'}: converted\n",
    )
    assert "already converted" in run(capsys, "convert", source, tmp_path / "m")[1]


def test_the_script_is_the_same_thing(tmp_path, source):
    args = [sys.executable, ROOT / "tools/convert_weights.py", source, tmp_path / "m"]
    done = subprocess.run(args, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'm'}: converted\n")
    done = subprocess.run(
        [*args[:2], tmp_path / "none", tmp_path / "n"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert_one_line(done.stderr, "does not exist")


def test_bad_sources(tmp_path, source, capsys):
    weights = source / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 8)
    status, _, err = run(capsys, "convert", source, tmp_path / "m")
    assert status == 2
    assert_one_line(err, "truncated")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
    (source / "config.json").write_text(json.dumps(raw_config(model_type="bloom")))
    status, _, err = run(capsys, "convert", source, tmp_path / "m")
    assert status == 2
    assert_one_line(err, "bloom")


@pytest.mark.parametrize(
    ("exits", "says"),
    [
        ("0", "exit 0 is out of range: this model has exits 1 to 4"),
        ("5", "exit 5 is out of range: this model has exits 1 to 4"),
        ("1-5", "exit"),
        ("x", "exit"),
    ],
)
def test_bad_exits(tmp_path, tiny_path, capsys, exits, says):
    status, _, err = run(capsys, "sweep", tiny_path, "--out", tmp_path / "r", "--exits", exits)
    assert status == 2
    assert_one_line(err, says)
    assert not (tmp_path / "r").exists()


def test_exits_beyond_smollm2(tmp_path, smollm2_path, capsys):
    status, _, err = run(capsys, "sweep", smollm2_path, "--out", tmp_path / "r", "--exits", "31")
    assert status == 2
    assert_one_line(err, "exit 31 is out of range: this model has exits 1 to 30")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no prompts"),
        ("name,age\nx,1\n", "columns name, age"),
        ("prompt,label\nx,maybe\n", "is no label"),
    ],
)
def test_bad_prompt_files(tmp_path, tiny_path, capsys, content, says):
    (tmp_path / "p.csv").write_text(content)
    status, _, err = run(
        capsys, "sweep", tiny_path, "--out", tmp_path / "r", "--prompts", tmp_path / "p.csv"
    )
    assert status == 2
    assert_one_line(err, says)
    assert not (tmp_path / "r").exists()


def test_other_bad_input(tmp_path, tiny_path, source, capsys):
    (tmp_path / "file").write_text("x")
    out = ("--out", tmp_path / "r")
    cases = [
        (("convert", source, tmp_path / "file" / "m"), "is a file"),
        (("sweep", source, *out), "jaxdepth convert"),
        (("sweep", tiny_path, "--out", tmp_path / "file"), "not a run directory"),
        (("sweep", tiny_path, "--out", tmp_path / "file" / "r"), "is a file"),
        (("sweep", tiny_path, *out, "--batch-size", 0), "batch_size"),
        (("sweep", tiny_path, *out, "--limit", 0), "limit"),
        (("sweep", tiny_path, *out, "--samples", 2), "--temperature"),
        (("sweep", tiny_path, *out, "--temperature", -1), "temperature"),
        (("sweep", tiny_path, *out, "--top-p", 0), "top_p"),
        (("sweep", tiny_path, *out, "--memory-gb", 0), "memory_gb"),
        (("sweep", tiny_path, *out, "--stop", ""), "stop"),
        (("sweep", tiny_path, *out, "--max-new-tokens", 250), "the 256 that this model"),
        (("sweep", tiny_path, *out, "--max-new-tokens", -1), "max_new_tokens"),
        (("sweep", tiny_path, *out, "--reference", source), "jaxdepth convert"),
        (("sweep", tiny_path, *out, "--openers", "Incomprehensibly"), "Incomprehensibly"),
        (("sweep", tiny_path, *out, "--config", "demmo"), "did you mean 'demo'"),
        (("sweep", tiny_path, *out, "--config"), "--config needs"),
        (("swep", tiny_path), "did you mean 'sweep'"),
    ]
    for args, says in cases:
        status, _, err = run(capsys, *args)
        assert status == 2, args
        assert_one_line(err, says)
    assert not (tmp_path / "r").exists()


def test_a_model_without_tokenizer_cannot_sweep(tmp_path, source, capsys):
    run(capsys, "convert", source, tmp_path / "m")
    status, _, err = run(capsys, "sweep", tmp_path / "m", "--out", tmp_path / "r")
    assert status == 2
    assert_one_line(err, "without a tokenizer")


def test_prompts_longer_than_the_model_takes(tmp_path, tiny_path, capsys):
    (tmp_path / "p.txt").write_text("word " * 300)
    args = ("--prompts", f"harmful={tmp_path / 'p.txt'}")
    status, _, err = run(capsys, "sweep", tiny_path, "--out", tmp_path / "r", *args)
    assert status == 2
    assert_one_line(err, "the 256 that this model")


def test_help(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(f"• {command} " in out for command in COMMANDS)
    for command in COMMANDS:
        status, out, _ = run(capsys, command, "--help")
        assert status == 0
        for name, _ in field_types(settings_class(command)):
            option = f"--{name.rstrip('_').replace('_', '-')}"  # import_ is --import
            assert option in out or f" {name.upper()}" in out, name
        assert out == run(capsys, "-h", command)[1]  # anywhere


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"jaxdepth {jaxdepth.__version__}\n")


def test_nothing_heavy_is_imported_with_the_package():
    """`import jaxdepth` and the script's first line load no JAX: they are quick to interrupt."""
    script = "import sys, jaxdepth, jaxdepth.cli; print({'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
    for name in jaxdepth.__all__:
        assert getattr(jaxdepth, name) is not None
    assert dir(jaxdepth) == jaxdepth.__all__
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        _ = jaxdepth.sweeep


def test_an_interrupt_at_the_start_is_quiet():
    started = subprocess.Popen(
        [sys.executable, "-m", "jaxdepth", "sweep", "nowhere"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.3)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert "Traceback" not in err
    assert started.returncode in (130, 2, -signal.SIGINT)


def test_a_reader_that_leaves_ends_a_command_quietly():
    command = f"{sys.executable} -m jaxdepth sweep --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    first, status = done.stdout.splitlines()
    assert "usage: jaxdepth sweep" in first
    assert status in ("0", "141")
    assert done.stderr == ""


def test_no_color_is_obeyed(monkeypatch):
    """In a terminal, where help is in colour otherwise."""
    for expected, value in ((True, None), (False, "1")):
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        environment |= {"TERM": "xterm"} | ({} if value is None else {"NO_COLOR": value})
        parent, child = os.openpty()
        args = [sys.executable, "-m", "jaxdepth", "inspect", "--help"]
        subprocess.run(args, stdout=child, env=environment, check=True)
        os.close(child)
        printed = os.read(parent, 100_000).decode()
        os.close(parent)
        assert ("\x1b[" in printed) == expected


def test_completion_is_of_all_commands(capsys):
    status, out, _ = run(capsys, "--tyro-print-completion", "bash")
    assert not status
    assert all(command in out for command in COMMANDS)


def test_unknown_option_names_the_nearest(capsys):
    status, out, err = run(capsys, "sweep", "m", "--exit", "3")
    assert status == 2
    assert "--exits" in out + err


# Settings files


def test_settings_file_under_the_command_line(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('exits = "1-3"\nlimit = 5\nprompts = ["a.csv", "b.csv"]\nout = "x"\n')
    actual = parse(Sweep, ["m", "--config", str(file), "--limit", "7"], "jaxdepth sweep")
    assert (actual.decoding.exits, actual.prompts.limit) == ("1-3", 7)
    assert actual.output.out == Path("x")
    assert actual.prompts.prompts == ("a.csv", "b.csv")
    assert parse(Sweep, [f"--config={file}", "m"], "jaxdepth sweep").prompts.limit == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exit = '1'", "unknown key 'exit'; did you mean 'exits'?"),
        ("limit = 'x'", "expected a int"),
        ("limit = true", "expected a int"),
        ("cuts = 3", "unknown key 'cuts'"),
        ("prompts = 3", "expected a list"),
        ("dtype = 'float8'", "expected one of"),
        ("exits = [1]", "expected a str"),
        ("= 3", "not valid TOML"),
    ],
)
def test_bad_settings_files(tmp_path, capsys, text, says):
    (tmp_path / "s.toml").write_text(text)
    status, _, err = run(capsys, "sweep", "m", "--config", tmp_path / "s.toml")
    assert status == 2
    assert_one_line(err, says)


def test_bench(tiny_path, capsys):
    """Every program is run; Hugging Face's rows are there where torch is."""
    small = ("--batches", 1, 2, "--rounds", 2, "--length", 8, "--new-tokens", 2)
    status, printed, _ = run(capsys, "bench", tiny_path, *small)
    assert status == 0
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    programs = {"one run, full depth", "all exits", "loop over exits"}
    if importlib.util.find_spec("torch"):
        programs |= {"Hugging Face, full depth", "Hugging Face, loop"}
    assert {row[2] for row in rows} == programs
    assert len(rows) == 2 * 2 * len(programs)
    for row in rows:
        median, low, high = (float(x) for x in re.findall(r"[\d.]+", row[3]))
        assert 0 < low <= median <= high
    status, _, err = run(capsys, "bench", tiny_path, "--rounds", 0)
    assert status == 2
    assert_one_line(err, "rounds is 0")
