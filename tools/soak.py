"""Kill commands at random moments, let two race for one target, and compare what is left.

    python tools/soak.py [PLACE] [--kills 50] [--seed N] [--only COMMAND ...] [--trial N]

Every command that writes is run twice in peace: what both runs have in common is what every trial
has to end with. A trial starts a command, kills it at a random moment of its usual time (SIGKILL,
or SIGTERM in a third of the trials), and runs the same command again to its end. In every second
trial another process wants the same target meanwhile: the same command, or its rival. A command
may refuse in one line that says what to do where its rival was first; then the rival's end state
counts. A traceback, another end state, or a file that is left over is a failure.

The trials done are in PLACE/trials.jsonl: the same command goes on with the next. `--trial N` runs
one of them again. The exit status is 1 after a failure, whose folder is kept.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soak_parts.children import Child
from soak_parts.end_state import State, common, differences, end_state, varying_names
from soak_parts.targets import COMMANDS, available, begin, prepare

from jaxdepth.errors import InputError

PATIENCE = 900  # seconds, after which a process hangs
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
ENDED_BY = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}}
REFUSED = 2


@dataclass(frozen=True)
class Plan:
    """What happens in a trial; all that is random in it follows from the seed and its number."""

    number: int
    command: str
    signal: str
    moment: float  # of the kill, as a share of the work from the first write to the end
    rival: str | None = None  # "same" or "other"
    lag: float = 0.0  # of the second process, as a share of the work before the first write
    second_is_killed: bool = False


@dataclass(frozen=True)
class Peace:
    """What two uninterrupted runs of a command showed."""

    seconds: float  # of processor time, which a busy machine does not change
    first_write: float  # seconds before it
    status: int
    state: State
    varying: list[str]  # patterns of names


class Failure(Exception):
    """A command did what it must not."""


def plan_of(seed: int, number: int, names: Sequence[str]) -> Plan:
    """Every command has a trial alone and then one in which two race, in turn."""
    rng = random.Random(f"{seed} {number}")
    order = list(names)
    random.Random(seed).shuffle(order)
    name = order[number // 2 % len(order)]
    plan = Plan(number, name, rng.choice(SIGNALS).name, rng.uniform(-0.1, 1.1))
    if number % 2 == 0:
        return plan
    is_other = COMMANDS[name].rival is not None and rng.random() < 0.5
    race = {"rival": "other" if is_other else "same", "lag": rng.uniform(0, 0.5)}
    return Plan(**asdict(plan) | race | {"second_is_killed": rng.random() < 0.5})


def peace_of(name: str, words: Sequence[str], place: Path) -> Peace:
    """Run a command twice in peace, in two folders: some files hold the path where they are.

    The second time it finds compiled programs.
    """
    runs, log = [], place / "peace.log"
    for time_of_run in ("first", "second"):
        folder = place / "peace" / time_of_run
        begin(name, place, folder)
        before, child = set(folder.rglob("*")), Child(words, folder, log)
        child.wait(until=lambda: set(folder.rglob("*")) != before)  # noqa: B023
        first_write, used = child.cpu_seconds(), 0.0
        while child.status is None:
            used = child.cpu_seconds() or used
            time.sleep(0.02)
        if child.status not in (0, 4):
            sys.exit(f"`jaxdepth {' '.join(words)}` does not run: see {log}")
        runs.append((used, min(first_write, used), child.status, end_state(folder)))
        shutil.rmtree(folder)
    (_, _, status, first), (seconds, first_write, _, second) = runs
    return Peace(seconds, first_write, status, common(first, second), varying_names(first, second))


class Soak:
    """The trials of a place."""

    def __init__(self, place: Path, names: Sequence[str]) -> None:
        self.place, self.names = place, names
        self.file = place / "peace.json"
        self.known: dict[str, dict] = {}
        if self.file.is_file():
            self.known = json.loads(self.file.read_text())

    def peace(self, name: str, rival: bool = False) -> Peace:
        """What a command, or its rival, does in peace; measured once."""
        words = COMMANDS[name].rival if rival else COMMANDS[name].words
        assert words is not None
        key = " ".join(words)
        if key not in self.known:
            print(f"in peace: jaxdepth {key}", flush=True)
            self.known[key] = asdict(peace_of(name, words, self.place))
            self.file.write_text(json.dumps(self.known, indent=1))
        return Peace(**self.known[key])

    def run(self, plan: Plan) -> dict[str, Any]:
        """Run a trial; what came of it."""
        folder = self.place / "trials" / f"{plan.number:04d}"
        log = self.place / "trials" / f"{plan.number:04d}.log"
        begin(plan.command, self.place, folder)
        try:
            result = {"ended": self._run(plan, folder, log), "why": ""}
        except (Failure, InputError) as failure:
            return {"ended": "failed", "why": str(failure), **asdict(plan)}
        shutil.rmtree(folder)
        for file in log.parent.glob(f"{log.stem}*.log"):
            file.unlink()
        return {**result, **asdict(plan)}

    def _run(self, plan: Plan, folder: Path, log: Path) -> str:
        command, peace = COMMANDS[plan.command], self.peace(plan.command)
        all_words = [command.words]
        if plan.rival is not None:
            all_words.append(command.rival if plan.rival == "other" else command.words)
            if plan.rival == "other":
                self.peace(plan.command, rival=True)
        logs = [log.with_suffix(f".{n}.log") for n in range(len(all_words))]
        children = [Child(all_words[0], folder, logs[0])]
        victim = children[0]
        if len(all_words) > 1:
            victim.wait(seconds=plan.lag * peace.first_write)
            children.append(Child(all_words[1], folder, logs[1]))
            victim = children[plan.second_is_killed]
        victim.wait(seconds=peace.first_write + plan.moment * (peace.seconds - peace.first_write))
        sent, was_alive = signal.Signals[plan.signal], victim.status is None
        if was_alive:
            victim.send(sent)
        for child, own_log in zip(children, logs, strict=True):
            got = sent if child is victim and was_alive else None
            _check_end(_wait(child), own_log, got, {0, peace.status}, len(children) > 1)
        ended = "equal" if was_alive else "equal, killed too late"
        line = self._again(command.words, folder, log, peace)
        if line is not None:
            if plan.rival != "other":
                raise Failure(f"the same command again: {line}")
            peace, ended = self.peace(plan.command, rival=True), "the rival's"
            assert command.rival is not None
            line = self._again(command.rival, folder, log, peace)
            if line is not None:
                raise Failure(f"neither goes on: {line}")
        if lines := differences(end_state(folder), peace.state, peace.varying):
            raise Failure("; ".join(lines[:5]))
        return ended

    @staticmethod
    def _again(words: Sequence[str], folder: Path, log: Path, peace: Peace) -> str | None:
        """Run a command to its end; what it refuses, in one line."""
        status = _wait(Child(words, folder, log))
        if status == REFUSED:
            return _check_end(status, log, None, set(), True)
        _check_end(status, log, None, {peace.status}, False)
        return None


def _wait(child: Child) -> int:
    """The exit status of a process."""
    end = time.monotonic() + PATIENCE
    child.wait(until=lambda: time.monotonic() > end)
    if child.status is None:
        child.send(signal.SIGKILL)
        child.wait()
        raise Failure(f"a process did not end within {PATIENCE} seconds")
    assert child.status is not None
    return child.status


def _check_end(
    status: int, log: Path, sent: signal.Signals | None, good: set[int], may_refuse: bool
) -> str | None:
    """Check a status and what was printed; the line of a refusal."""
    text = log.read_text(errors="replace")
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    if "Traceback (most recent call last)" in text:
        raise Failure(f"a traceback, status {status}: {lines[-1][:200]} ({log})")
    if status in good or (sent is not None and status in ENDED_BY[sent]):
        return None
    errors = [line for line in lines if line.startswith("jaxdepth: error: ")]
    if status == REFUSED and may_refuse and len(errors) == 1:
        return errors[0]
    raise Failure(f"status {status}: {' | '.join(errors or lines[-1:])[:300]} ({log})")


def summary(trials: Sequence[dict[str, Any]]) -> str:
    """Counts by command, and the failures with how to make them again."""
    lines = []
    for name in COMMANDS:
        ended = Counter(trial["ended"] for trial in trials if trial["command"] == name)
        if ended:
            counts = ", ".join(f"{count} {what}" for what, count in sorted(ended.items()))
            lines.append(f"{name}: {counts}")
    failed = [trial for trial in trials if trial["ended"] == "failed"]
    races = sum(trial["rival"] is not None for trial in trials)
    lines.append(f"{len(trials)} trials, two processes in {races}: {len(failed)} failed")
    lines += [f"--trial {trial['number']}: {trial['command']}: {trial['why']}" for trial in failed]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials that are missing; 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", type=Path, nargs="?", default=Path("runs/soak"))
    parser.add_argument("--kills", type=int, default=50, help="trials, also those done before")
    parser.add_argument("--seed", type=int, help="by default that of PLACE, or a new one")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, help="kill these commands only")
    parser.add_argument("--trial", type=int, help="run this trial again, and no other")
    args = parser.parse_args(argv)
    place = args.place.resolve()
    place.mkdir(parents=True, exist_ok=True)
    settings, record = place / "settings.json", place / "trials.jsonl"
    if settings.is_file():
        begun = json.loads(settings.read_text())
        for name, given in (("seed", args.seed), ("only", args.only)):
            if given is not None and given != begun[name]:
                parser.error(f"{place} has {name} = {begun[name]}: name another place")
    else:
        seed = args.seed if args.seed is not None else int(time.time())
        begun = {"seed": seed, "only": args.only or available()}
        settings.write_text(json.dumps(begun))
    print(f"seed {begun['seed']}, {args.kills} trials in {place}", flush=True)
    prepare(place)
    soak, trials = Soak(place, begun["only"]), []
    if record.is_file():
        trials = [json.loads(line) for line in record.read_text().splitlines()]
    done = {trial["number"] for trial in trials}
    numbers = range(args.kills) if args.trial is None else [args.trial]
    for number in numbers:
        if number in done and args.trial is None:
            continue
        trial = soak.run(plan_of(begun["seed"], number, soak.names))
        race = f", race with {trial['rival']}" if trial["rival"] else ""
        what = f"{trial['signal']} at {trial['moment']:.2f}{race}"
        print(f"{number} {trial['command']}, {what}: {trial['ended']} {trial['why']}", flush=True)
        trials = [*(t for t in trials if t["number"] != number), trial]
        record.write_text("".join(json.dumps(t) + "\n" for t in trials))
    print(summary(trials))
    return int(any(trial["ended"] == "failed" for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
