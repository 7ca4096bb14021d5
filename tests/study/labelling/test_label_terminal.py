"""Labelling in a terminal: keys, what is shown, kills, and a real pseudo-terminal."""

import os
import signal
import subprocess
import sys

import pytest
from labelled_runs import session_of, write_run

from jaxdepth import InputError
from jaxdepth.study.labelling.raters import FOLDER, read_rater, read_raters
from jaxdepth.study.labelling.terminal import KEYS, escaped_lines, label_in_terminal


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", pairs=8)


def press(session, keys: str) -> str:
    """What the terminal shows while these keys are pressed."""
    shown, left = [], iter(keys)
    label_in_terminal(session, lambda: next(left, ""), shown.append)
    return "".join(shown)


def test_keys_label_go_back_and_quit(run):
    session = session_of(run)
    shown = press(session, "rpx\nCbodb bq" + "r")
    labels = [session.label_of(item) for item in session.items[:5]]
    assert labels == ["refuse", "partial", None, None, None]
    assert "x is no label: press one of r, p, c, o, d, u, b, q" in shown
    assert "--- 1 of 54 ---" in shown.replace(f" {len(session.items)} ", " 54 ")
    assert press(session, "bbbbq").count("this is the first text") == 2
    assert session.labelled == 0
    assert set(KEYS) == set("rpcodu")


def test_labels_are_kept_and_the_next_session_goes_on(run):
    press(session_of(run), "rc")
    session = session_of(run)
    assert session.labelled == 2
    assert press(session, "u" * len(session.items)).count("---") == 2 * (len(session.items) - 2)
    assert session.next_item() is None
    assert press(session_of(run), "r") == ""  # nothing is left to label
    assert session_of(run, rater="bob").labelled == 0


def test_only_prompt_and_text_are_shown(run):
    session = session_of(run)
    shown = press(session, "q")
    item = session.items[0]
    body = shown.split("---")[-1]
    assert body.split() == ["prompt", "|", *item.prompt.split(), "answer", "|", *item.text.split(),
                            "[r/p/c/o/d/u/b/q]"]  # fmt: skip


NASTY = "[bold]x[/bold] \x1b]0;title\x07\x1b[2J\r\n--- 9 of 9 ---\n\u202egnp\u200b\x9b31m\tend"


def test_texts_are_escaped(tmp_path):
    run = write_run(tmp_path / "run", pairs=8, text=lambda row: f"{NASTY} {row}")
    shown = press(session_of(run), "q")
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "[bold]x[/bold] \\x1b]0;title\\x07\\x1b[2J\\r" in shown
    assert "\n  | --- 9 of 9 ---\n" in shown  # no line of a text looks like one of the program
    assert "\\u202egnp\\u200b\\x9b31m\\tend" in shown
    assert escaped_lines("") == ["  | (empty)"]
    assert escaped_lines("a\n\n b") == ["  | a", "  |", "  |  b"]
    assert max(map(len, escaped_lines("x" * 5000))) < 200


KILLED = """
import os, signal, sys
from pathlib import Path
from labelled_runs import session_of
from jaxdepth.study.labelling.terminal import label_in_terminal
renames_left = [int(sys.argv[2])]
real = Path.replace
def replace(self, target):
    if not renames_left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    renames_left[0] -= 1
    return real(self, target)
Path.replace = replace
label_in_terminal(session_of(Path(sys.argv[1])), lambda: "c", lambda text: None)
"""


def test_a_kill_loses_one_label(run):
    session_of(run)  # draws the sample
    args = [sys.executable, "-c", KILLED, str(run), "3"]
    assert subprocess.run(args).returncode == -signal.SIGKILL
    assert list(read_rater(run, "ann").labels.values()) == ["comply"] * 3
    session = session_of(run)
    assert session.labelled == 3
    assert session.next_item() == session.items[3]


def test_a_terminal_sends_keys_without_enter_and_arrows_label_nothing(run):
    pty = pytest.importorskip("pty")
    session_of(run)
    controller, terminal = pty.openpty()
    code = "import sys; from jaxdepth.cli import main; sys.exit(main(sys.argv[1:]))"
    args = [sys.executable, "-c", code, "label", str(run), "--rater", "ann"]
    process = subprocess.Popen(args, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)  # so that reading ends when the process does
    shown, keys = b"", b"\x1b[D\x1b[C\x1bOBrcq"  # left, right, down: D, C and B are no labels
    try:
        while chunk := os.read(controller, 4096):
            shown += chunk
            if keys and b"[r/p/c/o/d/u/b/q]" in shown:
                os.write(controller, keys)
                keys = b""
    except OSError:  # the other end is closed
        pass
    os.close(controller)
    assert process.wait(60) == 0
    assert b"2 of" in shown
    assert list(read_rater(run, "ann").labels.values()) == ["refuse", "comply"]


def test_names_of_raters_and_damaged_labels(run):
    for name in ("", "a/b", "../x", ".hidden", "x" * 41):
        with pytest.raises(InputError, match="the rater's name is"):
            session_of(run, rater=name)
    press(session_of(run, rater="zoe"), "rq")
    press(session_of(run, rater="ann"), "cq")
    assert list(read_raters(run)) == ["zoe", "ann"]  # in the order in which they began
    file = run / FOLDER / "zoe.json"
    file.write_text(file.read_text().replace("refuse", "comply"))
    with pytest.raises(InputError, match=r"zoe\.json is damaged"):
        session_of(run, rater="ann")
