"""What a frame of 800 x 800 of a scan of 512 x 512 x 512 bytes costs.

    python experiments/inside_the_scan/frame_cost.py

Prints seconds a frame after the first, for each way of adding light up, and the peak memory.
"""

import json
import resource
import time
from pathlib import Path

import jax
import numpy as np
from scan import made

from jaxnerf import Camera, OccupancySampler, TransferFunction, VolumeField, render_image
from jaxnerf.compositing import Compositing

SIDE, PICTURE, HERE = 512, 800, Path(__file__).parent


def main(side: int = SIDE, picture: int = PICTURE) -> None:
    """Time frames."""
    jax.config.update("jax_num_cpu_devices", 2)
    values = np.empty((side,) * 3, np.uint8)
    made_once = made((side, side, side))
    np.multiply(made_once, 255.0, out=made_once)
    values[...] = made_once
    del made_once
    matrix = np.diag([2.0 / side, 2.0 / side, 2.0 / side, 1.0])
    matrix[:3, 3] = 1.0 / side - 1.0
    camera = Camera.look_at((2.4, -2.6, 1.2), width=picture, height=picture)
    results = {"voxels": side, "picture": picture, "peak_gb_before": peak()}
    ways: dict[Compositing, float] = {
        "volume": 60.0, "surface": 600.0, "maximum": 1.0, "mean": 2.0, "attenuation": 2.0
    }  # fmt: skip
    for how, density in ways.items():
        table = TransferFunction.window(0.35 * 255.0, 0.85 * 255.0, density)
        field, params = VolumeField.from_array(values, transfer=table, to_world=matrix)
        begin = time.monotonic()
        occupancy = field.occupancy(params)
        made_in = time.monotonic() - begin
        sampler = OccupancySampler(occupancy)
        seconds = []
        for _ in range(3):
            begin = time.monotonic()
            seen = render_image(field, params, camera, sampler, compositing=how, background=0.0)
            seconds.append(round(time.monotonic() - begin, 2))
        results[how] = {
            "occupancy_seconds": round(made_in, 2),
            "frames_seconds": seconds,
            "opaque": float((seen.opacity > 0.5).mean()),
        }
        print(how, results[how], f"peak {peak()} GB", flush=True)
    results["peak_gb"] = peak()
    (HERE / "frame_cost.json").write_text(json.dumps(results, indent=2) + "\n")


def peak() -> float:
    """The most memory so far, in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


if __name__ == "__main__":
    main()
