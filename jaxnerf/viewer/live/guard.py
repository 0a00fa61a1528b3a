"""Refusal of requests that do not come from the live viewer's own pages.

A page of another site can make a browser send requests to 127.0.0.1, also under a name of its own that
resolves to this address. The browser then sends that site's name as Origin or as Host.
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
# Content security policy of viser's page: it may load only its own contents and those of its server.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' ws://{host} data: blob:; frame-ancestors 'none'"
)


def is_known(host: str | None, origin: str | None, port: int) -> bool:
    """Whether a request comes from a page of this server, or from a program of this machine.

    Args:
      host, origin: the headers; None if a header is missing.
      port: the server's port.
    """
    names = (f"{HOST}:{port}", f"localhost:{port}")
    if host not in names:
        return False
    parts = urlsplit(origin or f"http://{host}")
    return parts.scheme == "http" and parts.netloc in names


def free_port(port: int) -> int:
    """The first free port of twenty, beginning with this one; 0 stays 0.

    Raises:
      RunError: all are in use.
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
    """A request handler for `websockets` that refuses foreign requests before calling another handler."""
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
    """Servers of `websockets` that are started in this context refuse foreign requests.

    viser starts such a server, and has no option for a check of requests.

    Raises:
      RunError: no server was started with a handler that can be checked.
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
