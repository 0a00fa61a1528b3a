"""Who may ask: pages of this machine's own address, and no other that a browser happens to have open.

A foreign page can make a browser send requests to 127.0.0.1, also by a name of its own that it lets point
there; the browser then says so in Origin, or in Host.
"""

import contextlib
import http
import inspect
import socket
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from jaxnerf.runs.files import RunError

HOST = "127.0.0.1"
_PORTS = 20
# What the page of viser may load: what is in it, and from the server that it came from.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' ws://{host} data: blob:; frame-ancestors 'none'"
)


def is_known(host: str | None, origin: str | None, port: int) -> bool:
    """Whether a request comes from a page of this server, or from a program of this machine.

    Args:
      host, origin: the headers, None where there is none.
      port: of the server.
    """
    names = (f"{HOST}:{port}", f"localhost:{port}")
    if host not in names:
        return False
    parts = urlsplit(origin or f"http://{host}")
    return parts.scheme == "http" and parts.netloc in names


def free_port(port: int) -> int:
    """The first port from this on, of twenty, that nobody listens at; 0 stays 0.

    Raises:
      RunError: all are taken.
    """
    if port == 0:
        return 0
    for each in range(port, min(port + _PORTS, 65536)):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((HOST, each))
            return each
    raise RunError(f"--port: {HOST}:{port}: taken, and so are those after it")


def checked(answer: Callable[..., Any]) -> Callable[..., Any]:
    """What answers requests of `websockets`, with foreign ones refused before."""
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    async def check(connection: Any, request: Any) -> Any:
        port = connection.local_address[1]
        said = {name: request.headers.get_all(name) for name in ("Host", "Origin")}
        host, origin = (values[0] if values else None for values in said.values())
        is_single = all(len(values) <= 1 for values in said.values())
        if not is_single or not is_known(host, origin, port):
            headers = Headers({"Content-Length": "0", "Connection": "close"})
            return Response(http.HTTPStatus.FORBIDDEN, "Forbidden", headers, b"")
        found = answer(connection, request)
        if inspect.isawaitable(found):
            found = await found
        if found is not None:
            found.headers["Content-Security-Policy"] = _POLICY.format(host=host)
            found.headers["X-Content-Type-Options"] = "nosniff"
            found.headers["X-Frame-Options"] = "DENY"
            found.headers["Cross-Origin-Resource-Policy"] = "same-origin"
            found.headers["Cache-Control"] = "no-store"
        return found

    return check


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Servers of `websockets` that are begun meanwhile refuse foreign requests.

    viser begins one, and leaves no way to give it a check of one's own.

    Raises:
      RunError: none was begun in a way that can be checked.
    """
    from websockets.asyncio import server

    serve, begun = server.serve, []

    def guarding(*args: Any, process_request: Any = None, **kwargs: Any) -> Any:
        begun.append(process_request is not None)
        return serve(*args, process_request=checked(process_request), **kwargs)

    with mock.patch.object(server, "serve", guarding):
        yield
    if not begun or not all(begun):
        raise RunError("this version of viser is not known: who asks it cannot be checked")
