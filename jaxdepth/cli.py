"""The `jaxdepth` script: run a command, and print an error that the user can fix as one line.

No heavy package is imported with this file, so that Ctrl-C in the first second also ends it
quietly.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence

BROKEN_PIPE = 141  # what a shell reports of a process that SIGPIPE ended


def main(argv: Sequence[str] | None = None, ready: Callable[[], object] = lambda: None) -> int:
    """Run a command; return the exit status.

    Args:
        argv: the words of the command line; by default those of the process.
        ready: called when everything is imported and parsed, before the command begins.

    Returns:
        0 done, 2 bad input, 3 a plan does not fit, 4 nothing is certified or a run does not meet
        its certificate, 130 interrupted, 141 standard output was closed, 143 stopped by SIGTERM
        between two chunks.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("--version", "-V"):
        from jaxdepth import __version__

        print(f"jaxdepth {__version__}")
        return 0

    def run() -> int:
        from jaxdepth.commands.parsing import parse_command
        from jaxdepth.runtime.progress import quiet_output

        command = parse_command(words)
        ready()
        with quiet_output(command.quiet):
            return command.run(command.settings)

    return guarded(run, joins=words[:1] != ["convert"])


def guarded(command: Callable[[], int], joins: bool = True) -> int:
    """Run a command; print an error that the user can fix as one line, and return an exit status.

    Of several processes the first one prints.

    Args:
        command: what is run; it returns the exit status.
        joins: whether the processes of a job join. A conversion needs one process and no device.
    """
    # At every import transformers warns that torch is missing, but torch is not needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from jaxdepth.runtime.streams import safe_streams

    with safe_streams():
        return _guarded(command, joins)


def _guarded(command: Callable[[], int], joins: bool) -> int:
    try:
        return _run(command, joins)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE


def _run(command: Callable[[], int], joins: bool) -> int:
    import jax

    from jaxdepth.errors import InputError
    from jaxdepth.runtime import distributed, preemption, profiling

    try:
        if joins:
            distributed.initialize()
        elif distributed.job_name():
            # A device of a slice waits for all its hosts. The environment stays: the job has its
            # name from it.
            jax.config.update("jax_platforms", "cpu")
        with preemption.handle_sigterm(), distributed.mute_other_processes():
            try:
                status = command()
                sys.stdout.flush()  # raises BrokenPipeError if the reader has gone
                return status
            finally:
                profiling.end_profile()
    except preemption.Stopped:
        if distributed.is_first():
            print("stopped by SIGTERM; run the same command again to continue", file=sys.stderr)
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
    """Discard buffered output that nobody reads any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def entry() -> None:
    """The `jaxdepth` script.

    Until everything is imported, Ctrl-C ends the process at once: an interrupted import of numpy
    would end in its own error.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from jaxdepth.runtime.streams import run_in_utf8

    run_in_utf8()
    sys.exit(main(ready=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)))
