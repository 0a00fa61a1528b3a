"""The functions that start the live viewer of a run, or of a run in training."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from jaxnerf.config import Config
from jaxnerf.runs.run import Run
from jaxnerf.scenes import Scene, Split, without_photographs
from jaxnerf.viewer.live.panels import TrainingPanel, furnish
from jaxnerf.viewer.live.server import LiveViewer
from jaxnerf.viewer.live.sources import Trained, Training
from jaxnerf.viewer.live.turns import Turns


@contextlib.contextmanager
def live_view(
    run: Run, *, port: int = 7007, photographs: Split | None = None
) -> Iterator[LiveViewer]:
    """The live viewer of a run of any field, for the duration of the context; its `url` is its address.

    Args:
      run: a run from `jaxnerf.load_run`.
      port: the port, or the next free one if it is in use; 0 for any.
      photographs: the training split with images, which are then shown too.

    Raises:
      RunError: no port is free, or the package viser is missing (pip install 'jaxnerf[view]').
    """
    viewer = LiveViewer(run, Trained(run), Turns(is_free=True), port=port, photographs=photographs)
    furnish(viewer)
    viewer.start()
    try:
        yield viewer
    finally:
        viewer.close()


def serve(run: Run, *, port: int = 7007, photographs: Split | None = None) -> None:
    """Show a run live until interrupted; see `live_view`."""
    with live_view(run, port=port, photographs=photographs) as viewer:
        print(f"{run.folder} at {viewer.url} until interrupted (Ctrl-C)", flush=True)
        while True:
            time.sleep(1.0)


@dataclasses.dataclass(frozen=True)
class TrainingView:
    """The live viewer of a run in training.

    Attributes:
      viewer: the viewer in the browser.
      training: the source of the run.
      panel: the panel with the progress of training.
    """

    viewer: LiveViewer
    training: Training
    panel: TrainingPanel


@contextlib.contextmanager
def training_view(
    folder: Path, config: Config, scene: Scene, *, port: int = 7007
) -> Iterator[TrainingView]:
    """The live viewer of training, for the duration of the context.

    Args:
      folder: folder of the run.
      config: configuration of the run.
      scene: the scene with the photographs of the training split.
      port: as for `live_view`.

    Raises:
      RunError: as for `live_view`.
    """
    train = scene.splits["train"]
    bare = without_photographs(scene)
    run = Run(folder, config, bare, None, None, 0)
    viewers: list[LiveViewer] = []
    training = Training(
        folder, config, bare, lambda: bool(viewers) and viewers[0].painter.is_watched
    )
    photographs = train if train.images is not None else None
    viewer = LiveViewer(run, training, training.turns, port=port, photographs=photographs)
    viewers.append(viewer)
    panel = furnish(viewer, training)
    assert panel is not None
    viewer.start()
    try:
        yield TrainingView(viewer, training, panel)
    finally:
        training.finish()
        panel.finish()
        viewer.close()
