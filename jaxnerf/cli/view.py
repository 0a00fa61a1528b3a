"""`jaxnerf view`: walk through a run in the browser."""

import webbrowser
from collections.abc import Sequence

from absl import flags

from jaxnerf.cli import common
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import load_run
from jaxnerf.viewer.page import page
from jaxnerf.viewer.server import HOST, PageServer

_HELP = """
usage: jaxnerf view RUN [--port 7007] [--noopen]

Opens RUN in the browser, as the page that `jaxnerf export RUN page` writes, served to this machine alone
until it is interrupted. From another machine: ssh -L 7007:127.0.0.1:7007 HOST.
"""


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_integer(
        "port",
        7007,
        "where to serve it; the next one that is free where it is taken, and 0 for any",
        flag_values=values,
        lower_bound=0,
        upper_bound=65535,
    )
    flags.DEFINE_bool("open", True, "open the browser", flag_values=values)
    return values


def main(arguments: Sequence[str]) -> None:
    """Serve until interrupted; see the help.

    Raises:
      RunError, flags.Error: in one line what is wrong.
    """
    values = _flags()
    (folder,) = common.parse(values, arguments, _HELP, ["RUN"])
    common.prepare_cpu()
    text = page(load_run(folder))
    try:
        server = PageServer(text, values.port)
    except OSError as error:
        raise RunError(f"--port: {HOST}:{values.port}: {error.strerror or error}") from None
    with server:
        if values.port and server.server_port != values.port:
            print(f"port {values.port} is taken")
        print(f"{folder} at {server.url} until interrupted (Ctrl-C)", flush=True)
        if values.open:
            webbrowser.open(server.url)
        server.serve_forever()
