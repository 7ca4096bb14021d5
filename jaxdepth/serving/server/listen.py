"""`jaxdepth serve`: the socket, the server, and what the terminal is told."""

import ipaddress
import socket
import sys

import uvicorn

from jaxdepth.errors import InputError
from jaxdepth.ranges import check_ranges
from jaxdepth.runtime.log import warn
from jaxdepth.serving.respond import respond
from jaxdepth.serving.responder import Responder, build_responder
from jaxdepth.serving.server.app import Limits, build_app
from jaxdepth.serving.settings import Listening, Serve

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
_GRACE_SECONDS = 5  # for requests that are running when the server is told to end


def serve(settings: Serve) -> None:
    """Load the model, and answer chats until the process is told to end.

    Raises:
        InputError: something in the settings is wrong, or the address cannot be listened on.
    """
    listening = settings.listening
    is_local = check_listening(listening)
    listener = bind(listening)
    with listener:
        responder = build_responder(settings)
        name = listening.name or settings.model.model.resolve().name
        # A model that cannot answer ends here; and the first client does not wait for compilation.
        respond(responder, [{"role": "user", "content": "Hello"}], max_tokens=0)
        hosts = {*LOCAL_NAMES, listening.host} if is_local else None
        server = build_server(responder, name, listening, hosts)
        host, port = listener.getsockname()[:2]
        place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        lanes = settings.responding.lanes
        print(
            f"Serving {name} at exit {responder.exit_layer} on {place}/v1 ({lanes} lanes, "
            f"{listening.max_waiting} may wait). Ctrl-C ends it.",
            flush=True,
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn has ended by then, and passes the signal on
            print("stopped", file=sys.stderr)


def build_server(
    responder: Responder, name: str, listening: Listening, hosts: set[str] | None
) -> uvicorn.Server:
    """A server of a responder; it listens on sockets that `run` is given."""
    limits = Limits(listening.max_waiting, listening.max_body_kib * 1024, listening.timeout)
    app = build_app(responder, name, limits, hosts)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )


def check_listening(listening: Listening) -> bool:
    """Whether only this machine can reach the address.

    Raises:
        InputError: other machines can, and the settings do not allow it; or a limit is no limit.
    """
    check_ranges(listening)
    if is_loopback(listening.host):
        return True
    if not listening.allow_remote:
        raise InputError(
            f"other machines can reach {listening.host}, and there is no password and no "
            "encryption: use 127.0.0.1, or add --allow-remote"
        )
    warn(
        f"whoever reaches {listening.host}:{listening.port} can use this model; there is no "
        "password and no encryption"
    )
    return False


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name that may be anything


def bind(listening: Listening) -> socket.socket:
    """A socket that listens on the address; raises InputError if there can be none."""
    host, port = listening.host, listening.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot listen on {host}:{port} ({reason}): choose another --port or --host"
        ) from None
