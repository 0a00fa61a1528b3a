"""The flags of `jaxnerf train --view`, and the live viewer during training."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from jaxnerf.config import Config
from jaxnerf.scenes import Scene


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of the live viewer."""
    flags.DEFINE_bool(
        "view",
        False,
        "show training in the browser, at an address of this machine that is printed (pip install "
        "'jaxnerf[view]'). While a browser is connected, pictures take a quarter of the time, which is "
        "added to --max_seconds; the trained parameters are the same",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "port",
        7007,
        "port for --view; if it is taken, the next free one; 0 for any free port",
        flag_values=values,
        lower_bound=0,
        upper_bound=65535,
    )


def check(values: Any) -> None:
    """Check that training can be shown, before anything else is done.

    Raises:
      flags.Error, RunError: something is wrong; in one line.
    """
    if values["port"].present and not values.view:
        raise flags.Error("--port: has an effect with --view only")
    if not values.view:
        return
    if values.distributed:
        raise flags.Error("--view: shows the training of one process, not of --distributed")
    from jaxnerf.viewer.live.server import viser_package

    viser_package()


@contextlib.contextmanager
def viewed(out: Path, config: Config, scene: Scene, values: Any) -> Iterator[Any]:
    """The live viewer of training, a `TrainingView`; None without --view."""
    if not values.view:
        yield None
        return
    from jaxnerf.viewer.live.show import training_view

    with training_view(out, config, scene, port=values.port) as view:
        if values.port and view.viewer.port != values.port:
            print(f"port {values.port} is taken")
        print(f"shown at {view.viewer.url} while it trains", flush=True)
        yield view
