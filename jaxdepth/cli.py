"""The `jaxdepth` script: runs a command, and turns what a user can mend into one line.

Nothing heavy is imported with this file, so that Ctrl-C in the first second ends it quietly too.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence

BROKEN_PIPE = 141  # what a shell reports of a process that SIGPIPE ended


def main(argv: Sequence[str] | None = None, ready: Callable[[], object] = lambda: None) -> int:
    """Runs a command; returns the exit status.

    Args:
        argv: the words of the command line; by default those of the process.
        ready: called when everything is imported and parsed, before the command begins.

    Returns:
        0 done, 2 bad input, 3 a plan does not fit, 130 interrupted, 141 standard output was closed,
        143 stopped by SIGTERM between two chunks.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("--version", "-V"):
        from jaxdepth import __version__

        print(f"jaxdepth {__version__}")
        return 0

    def run() -> int:
        from jaxdepth.commands.parsing import parse_command

        command = parse_command(words)
        ready()
        return command.run(command.settings)

    return guarded(run)


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; an error that a user can mend becomes one line and an exit status.

    Of several processes the first one prints.
    """
    # transformers says at every import that there is no torch; none is needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        return _run(command)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE


def _run(command: Callable[[], int]) -> int:
    from jaxdepth.errors import InputError
    from jaxdepth.runtime import distributed, preemption, profiling

    try:
        distributed.initialize()
        with preemption.handle_sigterm(), distributed.mute_other_processes():
            try:
                status = command()
                sys.stdout.flush()  # a reader that has gone is noticed here
                return status
            finally:
                profiling.end_profile()
    except preemption.Stopped:
        if distributed.is_first():
            print("stopped as asked; run the same command again to go on", file=sys.stderr)
        return 143
    except distributed.SharedError as error:
        return _fail(" ".join(str(error).split())) if distributed.is_first() else 2
    except InputError as error:
        return _fail(" ".join(str(error).split()))
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}: check space and permissions")


def _fail(message: str) -> int:
    print(f"jaxdepth: error: {message}", file=sys.stderr)
    return 2


def _drop_output() -> None:
    """Sends what is still buffered for a reader that has gone to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def entry() -> None:
    """The `jaxdepth` script.

    Until everything is imported, Ctrl-C ends the process at once: an interrupted import of numpy
    would end in its own error.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main(ready=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)))
