"""The live viewer in a browser: viser's server, guarded, and its clients."""

import contextlib
import io
import re
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run
from jaxnerf.scenes import Split
from jaxnerf.viewer.live.guard import HOST, free_port, guarded
from jaxnerf.viewer.live.pacing import Order
from jaxnerf.viewer.live.painter import Painter, Source
from jaxnerf.viewer.live.turns import Turns
from jaxnerf.viewer.live.views import Stage, Style, View, angle_around, between, rows, stage_of

# Duration and number of frames of a flight to a photograph; and the number of attempts to place the
# camera at its end.
_FLIGHT_SECONDS, _FLIGHT_FRAMES = 0.6, 15
_TRIES = 5
# Largest difference of a camera from that of a photograph at which it counts as the same, in position on
# the stage and in the entries of the rotation matrix.
_THERE = 2e-3
_QUALITY = 80  # JPEG quality of images that are soon replaced
_LEFT = r"Queued a .* on a closed connection"  # a warning of viser


def viser_package() -> Any:
    """The package viser, imported.

    Raises:
      RunError: it is not installed; the message names the command to install it.
    """
    try:
        import viser
    except ImportError:
        raise RunError(
            "the live viewer needs the package viser: pip install 'jaxnerf[view]'"
        ) from None
    return viser


def _begun(port: int, title: str) -> Any:
    """viser's server, accessible only to pages of this machine, and without its function of sharing.

    Raises:
      RunError: no port is free, or the package is missing or of an unknown version.
    """
    viser = viser_package()

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> None:
            """Do nothing: the scene stays on this machine."""

    with contextlib.redirect_stdout(io.StringIO()), guarded():
        server = Server(host=HOST, port=free_port(port), label=title, verbose=False)
    server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
    return server


class LiveViewer:
    """Shows a run, trained or in training, to all clients that open its address.

    Attributes:
      url: the viewer's address.
      port: port of the url.
      stage: transformation between the user's frame and the browser's.
      run: the run whose scene and cameras are shown.
      painter: the rendering thread.
      server: viser's server.
      style: how images are rendered.
      photographs: photographs of the training cameras; None if they are not available.
    """

    def __init__(
        self,
        run: Run,
        source: Source,
        turns: Turns,
        *,
        port: int = 7007,
        photographs: Split | None = None,
    ):
        """Start the server; see `jaxnerf.viewer.live.panels` for the panels beside the image.

        Args:
          run: the run whose scene is shown; field and parameters come from the source.
          source: source of the run that is rendered.
          turns: gives access to the devices.
          port: the port, or the next free one if it is in use; 0 for any.
          photographs: the training split with images.

        Raises:
          RunError: no port is free, or the package viser is missing.
        """
        self.run, self.photographs, self.style = run, photographs, Style()
        self.stage: Stage = stage_of(run)
        self.server = _begun(port, run.scene.name)
        self.port = self.server.get_port()
        self.url = f"http://{HOST}:{self.port}/"
        self.painter = Painter(source, turns, self._show, photographs, self._complain)
        self._at: dict[int, int] = {}  # for each client, the photograph at whose camera it is
        self._stands: dict[int, np.ndarray] = {}
        self._flights: dict[int, int] = {}
        self._words: dict[int, Any] = {}  # for each client, the text about its image
        self.left: list[Callable[[], None]] = []
        # viser calls from many threads: an older view must not come after a newer one, nor after the end.
        self._looking = threading.Lock()
        self._place_first()
        self.server.on_client_connect(self._enter)
        self.server.on_client_disconnect(self._leave)

    def start(self) -> None:
        """Start rendering."""
        # viser warns of messages to a client that closed the page in the middle of a flight.
        warnings.filterwarnings("ignore", _LEFT, UserWarning)
        self.painter.start()

    def close(self) -> None:
        """Stop rendering and serving."""
        self.painter.stop()
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def clients(self) -> list[Any]:
        """The connected clients."""
        return list(self.server.get_clients().values())

    def restyle(self, style: Style) -> None:
        """Change the style of all images."""
        self.style = style
        for client in self.clients():
            self._look(client)

    def view_of(self, client: Any) -> View:
        """The current view of a client."""
        camera, name = client.camera, client.client_id
        pose = self.stage.pose(camera.wxyz, camera.position)
        number = self._at.get(name)
        if number is not None and not self._is_near(pose, self._stands[name]):
            number = None
        size = max(int(camera.image_width), 1), max(int(camera.image_height), 1)
        return View(rows(pose), float(camera.fov), size, self.style, number)

    def fly_to(self, client: Any, number: int) -> None:
        """Move a client to the camera of a photograph."""
        camera = self.run.cameras()[number]
        size = max(int(client.camera.image_width), 1), max(int(client.camera.image_height), 1)
        pose, angle = np.asarray(camera.camera_to_world)[:3], angle_around(camera, size)
        self.fly(client, pose, angle)
        name = client.client_id
        self._at[name], self._stands[name] = number, pose
        self._look(client)

    def fly(self, client: Any, pose: np.ndarray, angle: float) -> None:
        """Move a client to a pose of the user's frame by a short flight, unless another flight begins."""
        name = client.client_id
        self._at.pop(name, None)
        self._flights[name] = flight = self._flights.get(name, 0) + 1
        begun, first = time.perf_counter(), self.stage.pose(
            client.camera.wxyz, client.camera.position
        )  # fmt: skip
        first_angle = float(client.camera.fov)
        for frame in range(1, _FLIGHT_FRAMES + 1):
            if self._flights.get(name) != flight:
                return
            part = frame / _FLIGHT_FRAMES
            part = part * part * (3.0 - 2.0 * part)
            here = first_angle + part * (angle - first_angle)
            self.place(client, between(first, pose, part), here)
            left = begun + _FLIGHT_SECONDS * frame / _FLIGHT_FRAMES - time.perf_counter()
            time.sleep(max(left, 0.0))
        # A late message of the browser with an earlier camera may override the last one of the flight.
        for _ in range(_TRIES):
            time.sleep(_FLIGHT_SECONDS / _FLIGHT_FRAMES)
            here = self.stage.pose(client.camera.wxyz, client.camera.position)
            if self._flights.get(name) != flight or self._is_near(here, pose):
                return
            self.place(client, pose, angle)

    def place(self, client: Any, pose: np.ndarray, angle: float) -> None:
        """Set the camera of a client to a pose of the user's frame."""
        if (
            client.client_id not in self.server.get_clients()
        ):  # disconnected, for instance in the middle of a flight
            return
        position, point, up = self.stage.orbit(pose)
        # Not by the quaternion, which viser computes from the camera that the browser sent last.
        with client.atomic():
            client.camera.position = position
            client.camera.look_at = point
            client.camera.up_direction = up
            client.camera.fov = angle
        self._look(client)

    def _place_first(self) -> None:
        stage, first = self.stage, self.server.initial_camera
        self.server.scene.set_up_direction(stage.up)
        _, position = stage.placed(stage.home)
        first.position = position
        first.look_at = position - stage.distance / stage.size * stage.home[:, 2]
        first.up, first.fov = stage.up, stage.angle

    def _enter(self, client: Any) -> None:
        # Above the panels beside the image.
        words = client.gui.add_markdown("The first picture is coming.", order=-2.0)
        self._words[client.client_id] = words
        client.camera.on_update(lambda _: self._look(client))
        self._look(client)

    def _leave(self, client: Any) -> None:
        name = client.client_id
        with self._looking:
            self.painter.leave(name)
        for known in (self._at, self._stands, self._flights, self._words):
            known.pop(name, None)
        for call in self.left:
            call()

    def _look(self, client: Any) -> None:
        with self._looking:
            if client.client_id in self.server.get_clients():
                self.painter.look(client.client_id, self.view_of(client))

    def _is_near(self, pose: np.ndarray, other: np.ndarray) -> bool:
        away = np.linalg.norm(pose[:, 3] - other[:, 3]) / self.stage.size
        turned = np.linalg.norm(pose[:, :3] - other[:, :3])
        return bool(max(away, turned) < _THERE)

    def _show(self, name: int, order: Order, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        client = self.server.get_clients().get(name)
        if client is None:
            return
        if order.is_last:
            client.scene.set_background_image(pixels, format="png")
        else:
            client.scene.set_background_image(pixels, format="jpeg", jpeg_quality=_QUALITY)
        if words := self._words.get(name):
            words.content = self._said(order)
        client.flush()

    def _said(self, order: Order) -> str:
        """A description of an image: its size, and the photograph at whose camera it is."""
        said, whole = ("{} x {} pixels".format(*size) for size in (order.size, order.view.size))
        said = said if order.size == order.view.size else f"{said} of {whole}"
        if order.view.photograph is None:
            return said
        return f"{said}  \nat {plain(self.run.scene.splits['train'].names[order.view.photograph])}"

    def _complain(self, name: int, error: str) -> None:
        client = self.server.get_clients().get(name)
        if client is not None:
            client.add_notification("This cannot be drawn", error, color="red")


def plain(text: str) -> str:
    """Text as Markdown that shows it as it is: names of files may hold anything, HTML too.

    >>> plain("a<b>_1.jpg")
    'a\\\\<b\\\\>\\\\_1\\\\.jpg'
    """
    return re.sub(r"([^\w\s])|_", r"\\\g<0>", " ".join(text.split()))


def in_thread(call: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a thread of its own."""
    threading.Thread(target=call, args=arguments, daemon=True).start()
