"""A server that shows a page to browsers of this machine only."""

import contextlib
import os
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOST = "127.0.0.1"
# Number of ports that are tried in turn, and the number of ports that exist.
_TRIES, _MOST_PORTS = 20, 1 << 16


class PageServer(ThreadingHTTPServer):
    """Serves one page at /, and nothing else.

    A request is refused (403) unless its Host, and its Origin if it has one, are those of this server, so
    that pages of other sites, also under names that resolve to 127.0.0.1, cannot read the page.

    Attributes:
      page: the page's HTML.
      url: address of the page.
    """

    daemon_threads = True
    # The port of a server that has just ended can be used; on Windows the option would let two servers
    # share a port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, page: str, port: int):
        """Listen on a port of 127.0.0.1, or on the next free one if it is in use.

        Args:
          page: HTML.
          port: the first port to try; 0 is any.

        Raises:
          OSError: no port is free.
        """
        self.page = page.encode(errors="replace")
        last = min(port + _TRIES, _MOST_PORTS) - 1
        for each in range(port, last + 1):
            try:
                super().__init__((HOST, each), _Handler)
                break
            except OSError:
                if each == last:
                    raise
        self.url = f"http://{HOST}:{self.server_port}/"

    def knows(self, name: str) -> bool:
        """Whether a host and port, as browsers write them, are those of this server."""
        return name in (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "jaxnerf", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        origin = self.headers.get("Origin")
        known = self.server.knows(self.headers.get("Host", ""))
        scheme, _, host = (origin or "").partition("://")
        if not known or (origin is not None and not (scheme == "http" and self.server.knows(host))):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        if urlsplit(self.path).path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(self.server.page)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        with contextlib.suppress(ConnectionError):  # the browser may be gone
            self.end_headers()
            if with_body:
                self.wfile.write(self.server.page)

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests."""
