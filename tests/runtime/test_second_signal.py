"""SIGTERM while the main thread is in compiled code, such as a compiler: the second one ends."""

import signal
import subprocess
import sys
import time

import pytest

# A mutex of C that its own thread has locked: waiting for it goes on after any signal.
WAITING = """
import ctypes
from jaxdepth.runtime.preemption import handle_sigterm
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
with handle_sigterm():
    print("waits", flush=True)
    lock(mutex), lock(mutex)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="an all-zero mutex is Linux's")
def test_a_second_sigterm_ends_a_process_in_compiled_code():
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"waits\n"
        time.sleep(1)  # between two instructions Python's own handler would run
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):  # the first one asks for a stop
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
