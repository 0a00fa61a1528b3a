"""`jaxnerf view`: show a run in the browser."""

import threading
import webbrowser
from collections.abc import Sequence
from typing import Any

from absl import flags

from jaxnerf.cli import common
from jaxnerf.config import ConfigError
from jaxnerf.config.adaptation import load_for
from jaxnerf.runs.files import RunError
from jaxnerf.runs.folder import check_same_scene
from jaxnerf.runs.run import Run, load_run
from jaxnerf.scenes import SceneError, Split
from jaxnerf.viewer.contents import holds
from jaxnerf.viewer.page import page
from jaxnerf.viewer.server import HOST, PageServer

_HELP = """
usage: jaxnerf view RUN [--live] [--port 7007] [--noopen]

Shows RUN in the browser, as the page that `jaxnerf export RUN page` writes. The page is served to this
machine alone until the command is interrupted. From another machine: ssh -L 7007:127.0.0.1:7007 HOST.

Fields that a page cannot hold (the paper's network, a hash grid) are rendered on this machine by the live
viewer (pip install 'jaxnerf[view]'), which also compares images with photographs, crops, and changes the
background. --live opens it for every field.
"""


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_integer(
        "port",
        7007,
        "port of the server; if it is taken, the next free one; 0 for any free port",
        flag_values=values,
        lower_bound=0,
        upper_bound=65535,
    )
    flags.DEFINE_bool("open", True, "open the browser", flag_values=values)
    flags.DEFINE_bool("live", False, "open the live viewer, not the page", flag_values=values)
    common.define_scene_flags(values)
    return values


def main(arguments: Sequence[str]) -> None:
    """Serve until interrupted; see the help.

    Raises:
      RunError, flags.Error: something is wrong; in one line.
    """
    values = _flags()
    (folder,) = common.parse(values, arguments, _HELP, ["RUN"])
    common.prepare_cpu()
    run = load_run(folder)
    if values.live or not holds(run):
        _live(run, values)
        return
    if values["allow_outside_paths"].present:
        raise flags.Error("--allow_outside_paths: has an effect on the live viewer only (--live)")
    text = page(run)
    try:
        server = PageServer(text, values.port)
    except OSError as error:
        raise RunError(f"--port: {HOST}:{values.port}: {error.strerror or error}") from None
    with server:
        _say(run, values, server.server_port, server.url)
        server.serve_forever()


def _live(run: Run, values: Any) -> None:
    from jaxnerf.viewer.live.server import viser_package
    from jaxnerf.viewer.live.show import live_view

    viser_package()
    common.use_compilation_cache()
    with live_view(run, port=values.port, photographs=_photographs(run, values)) as viewer:
        _say(run, values, viewer.port, viewer.url)
        threading.Event().wait()


def _photographs(run: Run, values: Any) -> Split | None:
    """The photographs that the run was trained on, if they can still be read."""
    try:
        scene = load_for(run.config, run.scene.source, ("train",), values.allow_outside_paths)
        check_same_scene(run.folder, run.scene, scene)
    except (SceneError, ConfigError) as error:
        print(f"without photographs: {error}")
        return None
    return scene.splits["train"]


def _say(run: Run, values: Any, port: int, url: str) -> None:
    if values.port and port != values.port:
        print(f"port {values.port} is taken")
    print(f"{run.folder} at {url} until interrupted (Ctrl-C)", flush=True)
    if values.open:
        # A browser of the terminal returns only when it is left.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
