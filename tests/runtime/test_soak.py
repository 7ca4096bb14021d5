"""The soak of tools/soak.py: it covers all commands that write, and sees what it must see."""

import json
import signal
import subprocess
import sys

import pytest
import soak
from labelled_runs import write_run
from soak_parts.end_state import VARIES, common, differences, end_state, varying_names
from soak_parts.targets import COMMANDS, READ_ONLY

from jaxdepth.commands.parsing import COMMANDS as ALL
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.run_directory import Run, read_frame, read_record


def test_every_command_that_writes_is_killed():
    assert {command.words[0] for command in COMMANDS.values()} == ALL.keys() - READ_ONLY


def test_half_of_the_trials_are_races_and_all_commands_have_both():
    plans = [soak.plan_of(3, number, list(COMMANDS)) for number in range(2 * len(COMMANDS))]
    assert {plan.command for plan in plans if plan.rival} == COMMANDS.keys()
    assert {plan.command for plan in plans if not plan.rival} == COMMANDS.keys()
    assert {plan.signal for plan in plans} == {"SIGKILL", "SIGTERM"}
    assert any(plan.rival == "other" for plan in plans)
    assert plans[5] == soak.plan_of(3, 5, list(COMMANDS)) != soak.plan_of(4, 5, list(COMMANDS))


def test_another_end_state_is_seen(tmp_path):
    first, second = ({"a": "1", "b": "2", "log-1.txt": "3"}, {"a": "1", "b": "4", "log-2.txt": "5"})
    expected, varying = common(first, second), varying_names(first, second)
    assert expected == {"a": "1", "b": VARIES}
    assert not differences({"a": "1", "b": "9", "log-33.txt": "0"}, expected, varying)
    assert differences({"a": "2", "c": "1"}, expected, varying) == [
        "a is another one", "b is missing", "c is left over",
    ]  # fmt: skip
    run, state = write_run(tmp_path / "run"), end_state(tmp_path)
    assert end_state(tmp_path) == state
    prompts = read_frame(run, PROMPTS).assign(text="another")
    Run(run, read_record(run)).write_table(PROMPTS.name, PROMPTS.from_frame(prompts))
    (run / ".lock").touch()
    assert differences(end_state(tmp_path), state, []) == [
        "run/.lock is left over", "run/prompts.parquet is another one",
        "run/run.json: tables prompts is another one",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "printed", "sent", "may_refuse", "why"),
    [
        (0, "done", None, False, None),
        (-9, "", "SIGKILL", False, None),
        (143, "stopped by SIGTERM; run the same command again", "SIGTERM", False, None),
        (-9, "", None, False, "status -9"),
        (1, "Traceback (most recent call last):\nKeyError: 3", None, True, "a traceback"),
        (2, "jaxdepth: error: x is in use", None, False, "x is in use"),
        (2, "jaxdepth: error: x is in use", None, True, None),
        (2, "usage: jaxdepth", None, True, "status 2"),
    ],
)
def test_what_a_command_may_end_with(tmp_path, status, printed, sent, may_refuse, why):
    log = tmp_path / "log"
    log.write_text(printed)
    request = status, log, sent and signal.Signals[sent], {0}, may_refuse
    if why is None:
        soak._check_end(*request)
    else:
        with pytest.raises(soak.Failure, match=why):
            soak._check_end(*request)


@pytest.mark.slow
def test_a_few_trials(tmp_path):
    command = [sys.executable, soak.__file__, tmp_path, "--seed", "5", "--only", "convert", "label"]
    printed = []
    for kills in ("4", "6"):  # the second one goes on
        done = subprocess.run([*command, "--kills", kills], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    assert printed[0].startswith("seed 5, 4 trials")
    assert "4 trials, two processes in 2: 0 failed" in printed[0]
    assert "in peace: jaxdepth label" in printed[0]
    assert "in peace: jaxdepth label" not in printed[1]
    trials = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [trial["number"] for trial in trials] == list(range(6))
