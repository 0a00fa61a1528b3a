"""The panels beside the image of the live viewer."""

import dataclasses
import shlex
import threading
import time
from typing import Any

import numpy as np

from jaxnerf.evaluation import psnr_of_error
from jaxnerf.scenes import SceneError
from jaxnerf.scenes.path_files import MOST_PIXELS
from jaxnerf.viewer.live.crop import CropPanel
from jaxnerf.viewer.live.key_frames import RATES, SECONDS, KeyFrames
from jaxnerf.viewer.live.pictures import thumbnail
from jaxnerf.viewer.live.server import LiveViewer, in_thread
from jaxnerf.viewer.live.sources import Training
from jaxnerf.viewer.live.views import COMPARISONS, LAYERS, angle_around

# Largest number of camera frusta, evenly chosen; and their depth on the stage.
_MOST_FRUSTA = 300
_FRUSTUM = 0.07
_GREY, _ORANGE = (150, 150, 150), (255, 180, 84)
# Number of points of the line of a path.
_LINE = 200
# Lines of Markdown; two spaces at the end of a line are a line break.
_HELP = "  \n".join(
    (
        "**drag**, **arrows**: move around",
        "**right drag**: shift",
        "**wheel**: nearer and farther",
        "**W A S D**, **Q E**: fly",
        "**click a camera**: stand where it stood",
    )
)


class StylePanel:
    """Controls of the style of images."""

    def __init__(self, viewer: LiveViewer):
        self._viewer, gui = viewer, viewer.server.gui
        levels = tuple(round(255 * part) for part in viewer.run.background)
        self._layer = gui.add_dropdown("Show", LAYERS, initial_value=LAYERS[0])
        self._background = gui.add_rgb(
            "Background", levels, hint="the colour behind all that is not opaque"
        )
        self.comparison: Any = None
        self._crop = CropPanel(viewer, self._restyle)
        for choice in (self._layer, self._background):
            choice.on_update(lambda _: self._restyle())

    def _restyle(self) -> None:
        red, green, blue = (level / 255.0 for level in self._background.value)
        compared = COMPARISONS[0] if self.comparison is None else self.comparison.value
        self._viewer.restyle(
            dataclasses.replace(
                self._viewer.style,
                layer=self._layer.value,
                background=(red, green, blue),
                crop=self._crop.crop,
                comparison=compared,
            )
        )

    def add_comparison(self) -> None:
        """Add the control of comparisons with photographs."""
        self.comparison = self._viewer.server.gui.add_dropdown(
            "Compare",
            COMPARISONS,
            initial_value=COMPARISONS[0],
            hint="after a click on a camera: the run's picture, the photograph, or their difference",
        )
        self.comparison.on_update(lambda event: self._compare(event.client))

    def _compare(self, client: Any) -> None:
        self._restyle()
        if client is None or self.comparison.value == COMPARISONS[0]:
            return
        if self._viewer.view_of(client).photograph is None:
            client.add_notification(
                "Click a camera first",
                f"The {self.comparison.value} is shown where a photograph was taken.",
                auto_close_seconds=6.0,
            )


class CameraPanel:
    """The cameras of the photographs, to which clients can fly."""

    def __init__(self, viewer: LiveViewer, style: StylePanel):
        self._viewer, gui = viewer, viewer.server.gui
        names = viewer.run.scene.splits["train"].names
        with gui.add_folder("Cameras"):
            shown = gui.add_checkbox(
                "Show them", initial_value=True, hint="click one to stand where it stood"
            )
            home = gui.add_button("First view", hint="fly back to where this began")
            if viewer.photographs is not None:
                style.add_comparison()
        chosen = np.unique(np.linspace(0, len(names) - 1, _MOST_FRUSTA).round().astype(int))
        self.frusta = [self._frustum(int(number)) for number in chosen]
        shown.on_update(lambda _: self._show(shown.value))
        home.on_click(lambda event: in_thread(self._go_home, event.client))

    def _frustum(self, number: int) -> Any:
        viewer = self._viewer
        camera = viewer.run.cameras()[number]
        width, height = (int(side) for side in np.asarray(camera.size))
        angle = angle_around(camera, (width, height))
        quaternion, position = viewer.stage.placed(np.asarray(camera.camera_to_world)[:3])
        taken = viewer.photographs
        frustum = viewer.server.scene.add_camera_frustum(
            f"/cameras/{number}",
            angle,
            width / height,
            scale=scale_of_frustum(_FRUSTUM, angle, width / height),
            # Filled, since otherwise without a photograph only the lines could be clicked.
            variant="filled",
            thickness=1.5,
            thickness_units="screen",
            color=_GREY,
            image=None if taken is None else thumbnail(taken, number),
            format="jpeg",
            wxyz=quaternion,
            position=position,
        )
        frustum.on_click(lambda event: in_thread(viewer.fly_to, event.client, number))
        return frustum

    def _show(self, visible: bool) -> None:
        for frustum in self.frusta:
            frustum.visible = visible

    def _go_home(self, client: Any) -> None:
        stage = self._viewer.stage
        self._viewer.fly(client, stage.home, stage.angle)


class PathPanel:
    """A camera path: recorded, previewed, saved, and opened again."""

    def __init__(self, viewer: LiveViewer):
        self._viewer, gui = viewer, viewer.server.gui
        self.keys = KeyFrames()
        width, height = (int(side) for side in np.asarray(viewer.run.cameras()[0].size))
        self._shape = width / height
        with gui.add_folder("Camera path"):
            self._count = gui.add_markdown("")
            add = gui.add_button("Add key frame", hint="here, as it is seen now")
            remove = gui.add_button_group("Remove", ("last", "all"))
            self._seconds = gui.add_number(
                "Seconds between", 2.0, min=SECONDS[0], max=SECONDS[1], step=0.1
            )
            self._rate = gui.add_number(
                "Frames a second", 30.0, min=RATES[0], max=RATES[1], step=1.0
            )
            self._cycle = gui.add_checkbox("Return to the first", initial_value=False)
            self._size = gui.add_vector2(
                "Picture", (width, height), min=(1, 1), max=(MOST_PIXELS, MOST_PIXELS), step=1
            )
            self._part = gui.add_slider("Preview", 0.0, 1.0, 0.001, 0.0)
            play = gui.add_button("Play")
            save = gui.add_button("Save JSON")
            again = gui.add_upload_button(
                "Open JSON", hint="key frames that were saved", mime_type="application/json"
            )
        add.on_click(lambda event: self._add(event.client))
        remove.on_click(lambda event: self._remove(event.target.value == "all"))
        for choice in (self._seconds, self._rate, self._cycle):
            choice.on_update(lambda _: self._changed())
        self._part.on_update(lambda event: event.client and self._preview(event.client))
        play.on_click(lambda event: in_thread(self._play, event.client))
        save.on_click(lambda event: self._save(event.client))
        again.on_upload(lambda event: self._open(event.client, event.target.value))
        self._playing, self._lock = 0, threading.Lock()
        self._changed()

    def _add(self, client: Any) -> None:
        view = self._viewer.view_of(client)
        with self._lock:
            self.keys = self.keys.with_key(view.pose, view.angle)
        self._changed()

    def _remove(self, all_of_them: bool) -> None:
        with self._lock:
            kept = () if all_of_them else self.keys.keys[:-1]
            self.keys = dataclasses.replace(self.keys, keys=kept)
        self._changed()

    def _changed(self) -> None:
        with self._lock:
            self.keys = dataclasses.replace(
                self.keys,
                seconds=float(self._seconds.value),
                frames_per_second=float(self._rate.value),
                cycle=bool(self._cycle.value),
            )
        keys = self.keys
        count, frames = len(keys.keys), len(keys)
        self._count.content = (
            f"{_some(count, 'key frame')}, {_some(frames, 'frame')}. Saved: "
            f"`jaxnerf render {shlex.quote(str(self._viewer.run.folder))} --path camera_path.json`"
            if count
            else "Stand somewhere, add a key frame, and go on."
        )
        self._draw()

    def _draw(self) -> None:
        """Show the line of the path and its key frames on the stage."""
        scene, stage, keys = self._viewer.server.scene, self._viewer.stage, self.keys
        scene.remove_by_name("/path")
        if not keys.keys:
            return
        for number, (pose, angle) in enumerate(keys.keys):
            quaternion, position = stage.placed(np.array(pose))
            scene.add_camera_frustum(
                f"/path/{number}", angle, self._shape,
                scale=scale_of_frustum(0.6 * _FRUSTUM, angle, self._shape), thickness=2.0,
                thickness_units="screen", color=_ORANGE, wxyz=quaternion, position=position,
            )  # fmt: skip
        if len(keys.keys) > 1:
            fine = dataclasses.replace(keys, seconds=1.0, frames_per_second=_LINE / len(keys.keys))
            points = np.asarray(fine.cameras(2, 2).camera_to_world)[:, :, 3]
            points = ((points - stage.middle) / stage.size).astype(np.float32)
            scene.add_line_segments(
                "/path/line", np.stack([points[:-1], points[1:]], axis=1), _ORANGE, thickness=2.0,
                thickness_units="screen",
            )  # fmt: skip

    def _preview(self, client: Any) -> None:
        if self.keys.keys:
            self._viewer.place(client, *self.keys.at(float(self._part.value)))

    def _play(self, client: Any) -> None:
        """Fly along the path at its own speed; a second click starts again from the beginning."""
        self._playing = mine = self._playing + 1
        keys = self.keys
        if not keys.keys:
            return
        begun, lasts = time.perf_counter(), len(keys) / keys.frames_per_second
        while self._playing == mine and (part := (time.perf_counter() - begun) / lasts) < 1.0:
            self._viewer.place(client, *keys.at(part))
            time.sleep(1.0 / 30.0)
        if self._playing == mine:
            self._viewer.place(client, *keys.at(1.0))

    def _save(self, client: Any) -> None:
        if not self.keys.keys:
            client.add_notification("No key frames", "Add one or more first.")
            return
        width, height = (min(max(int(side), 1), MOST_PIXELS) for side in self._size.value)
        contents = self.keys.to_json(width, height)
        client.send_file_download("camera_path.json", contents, save_immediately=True)

    def _open(self, client: Any, file: Any) -> None:
        """Replace the key frames by those of a file."""
        try:
            keys, size = KeyFrames.of_json(file.name, file.content)
        except SceneError as error:
            client.add_notification("No camera path", str(error), color="red")
            return
        self._seconds.value, self._rate.value = keys.seconds, keys.frames_per_second
        self._cycle.value, self._size.value = keys.cycle, size
        with self._lock:
            self.keys = keys
        self._changed()


class TrainingPanel:
    """The progress of training."""

    def __init__(self, viewer: LiveViewer, training: Training):
        self._viewer, self._training = viewer, training
        gui = viewer.server.gui
        with gui.add_folder("Training", order=-1.0):
            self._words = gui.add_markdown("The first step compiles.")
            self._bar = gui.add_progress_bar(0.0)
            self._pause = gui.add_button("Pause", hint="and look at all pixels")
        self._told = "The first step compiles."
        self._pause.on_click(lambda _: self.pause(not training.is_paused))
        viewer.left.append(self._go_on_alone)

    def pause(self, pauses: bool) -> None:
        """Pause training, or resume it."""
        self._training.is_paused = pauses
        self._pause.label = "Go on" if pauses else "Pause"
        self._say()
        self._viewer.painter.refresh()

    def _go_on_alone(self) -> None:
        """Resume training if it is paused and no client is connected that could resume it."""
        if self._training.is_paused and not self._viewer.clients():
            self.pause(False)

    def tell(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """Show the progress of training."""
        quality = psnr_of_error(metrics["mse"])
        self._told = (
            f"step {step:,} of {total:,}  \nloss {metrics['loss']:.5f}, PSNR {quality:.2f} dB"
        )
        self._bar.value = 100.0 * step / max(total, 1)
        self._say()

    def finish(self) -> None:
        """Show that training has ended."""
        self._pause.disabled, self._training.is_paused = True, False
        self._say(
            f"training has ended; `jaxnerf view {shlex.quote(str(self._viewer.run.folder))}` shows it"
        )
        self._viewer.server.flush()  # before it closes

    def _say(self, more: str = "") -> None:
        more = more or (
            "paused: pictures have all their pixels" if self._training.is_paused else ""
        )
        self._words.content = "  \n".join(filter(None, (self._told, more)))


def _some(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def scale_of_frustum(depth: float, angle: float, shape: float) -> float:
    """viser's scale of a frustum with a given depth: the cube root of its volume.

    Args:
      depth: distance from the camera to its image.
      angle: vertical field of view, in radians.
      shape: aspect ratio of the image: its width divided by its height.
    """
    return depth * float(np.cbrt(np.tan(0.5 * angle) ** 2 * shape / 3.0))


def furnish(viewer: LiveViewer, training: Training | None = None) -> TrainingPanel | None:
    """Add all panels to a viewer; returns that of training."""
    panel = None if training is None else TrainingPanel(viewer, training)
    with viewer.server.gui.add_folder("How to move", expand_by_default=False):
        viewer.server.gui.add_markdown(_HELP)
    style = StylePanel(viewer)
    CameraPanel(viewer, style)
    PathPanel(viewer)
    return panel
