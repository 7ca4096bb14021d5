"""The process that renders a chat template: template.py runs this file as a script.

It imports nothing of jaxdepth, which would start JAX. Its first line of output says that it is
ready; then it reads one request and writes one answer, both JSON.
"""

import importlib
import importlib.util
import json
import math
import sys
from datetime import datetime
from typing import Any


def main() -> None:
    """Write the rendered conversations, or the name of the limit that was reached."""
    # Some versions of transformers would import torch without need; None makes that an ImportError.
    sys.modules["torch"] = None  # type: ignore[assignment]  # typeshed forbids the documented None
    chat_template_utils = _import_renderer()
    print("ready", flush=True)
    request = json.load(sys.stdin)
    if request.get("date"):
        # What a template is given as `strftime_now` asks this name; functions cannot be passed in.
        chat_template_utils.datetime = _stopped_at(datetime.fromisoformat(request["date"]))
    _limit(request["seconds"], request["bytes"])

    def render(messages: list[dict], generation_prompt: bool) -> dict:
        try:
            (text,), _ = chat_template_utils.render_jinja_template(
                [messages],
                chat_template=request["template"],
                add_generation_prompt=generation_prompt,
                **request["variables"],
            )
            text.encode()  # fails on an unpaired surrogate, which no tokenizer accepts
        except MemoryError:
            raise
        except Exception as error:  # a template can raise anything
            line = " ".join(str(error).split())
            return {"text": None, "reason": "".join(filter(str.isprintable, line))[:120]}
        return {"text": text, "reason": None}

    try:
        rendered = [render(*conversation) for conversation in request["conversations"]]
        characters = sum(len(one["text"] or "") for one in rendered)
        answer = "characters" if characters > request["characters"] else rendered
    except MemoryError:
        answer = "memory"
    print(json.dumps(answer))


def _import_renderer() -> Any:
    """Import what transformers renders with, without the packages around it.

    Their start takes most of a second, for every model that is opened, and does nothing that is
    needed here. A version where it does gets it.
    """
    renderer = "transformers.utils.chat_template_utils"
    try:
        for name in ("transformers", "transformers.utils"):
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ImportError(name)
            sys.modules[name] = importlib.util.module_from_spec(spec)  # found, and not run
        return importlib.import_module(renderer)
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
            del sys.modules[name]
        return importlib.import_module(renderer)


def _stopped_at(time: datetime) -> type[datetime]:
    """A clock that always shows this time."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return time

    return Stopped


def _limit(seconds: int, more_bytes: int) -> None:
    """Limit what this process may use from here on, where the platform can."""
    try:
        import resource
    except ImportError:
        return

    def at_most(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

    at_most(resource.RLIMIT_CORE, 0)
    # Holds even if the parent has ended. Otherwise the parent ends this process before.
    usage = resource.getrusage(resource.RUSAGE_SELF)
    at_most(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + 2 * seconds))
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
    except OSError:
        return  # only Linux reports the memory in use, and only there does the next limit hold
    at_most(resource.RLIMIT_AS, pages * resource.getpagesize() + more_bytes)


if __name__ == "__main__":
    main()
