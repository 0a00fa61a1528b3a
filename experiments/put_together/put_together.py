"""The fox's head on the demo scene's table: two scenes as one, and a placement found from a picture.

    python experiments/put_together/put_together.py

Reads the fox from the folder that JAXNERF_DATA names (of instant-ngp, fox/transforms.json); without it
the bowl of the demo scene itself takes the head's part, which is said. Trains both scenes, in the folder
--runs; leaves results.json, orbit.webp and placement.webp in this file's folder.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
from scipy.spatial.transform import Rotation

import jaxnerf
from jaxnerf import Camera, ComposedRun, Part, Region, Run, compose, render_rays
from jaxnerf.cameras import cast_rays, pixel_centres
from jaxnerf.config import override
from jaxnerf.fields import join_field, split_field
from jaxnerf.geometry import Placement, matrix_of, parts_of
from jaxnerf.runs.metrics import read_metrics
from jaxnerf.sampling import OccupancySampler
from jaxnerf.sampling.composed import map_occupancy_samplers
from jaxnerf.scenes import Similarity

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
TABLE = -0.55  # the z of its top (jaxnerf/scenes/demo/scene.json)
# Where the head stands instead of the balls, and how high it is, in the table's unit.
SPOT, HEIGHT = np.array(CONFIG["spot"]), CONFIG["height"]
CLEARED = (Region.box((-0.25, -0.95, TABLE + 0.012), (0.45, 0.27, 0.2)),)
# The fox's head in the frame of its files: an ellipsoid with axes along the wall, out of it, which is how
# the fox looks, and upward. The board that it hangs by and the end of its neck lie outside.
LOOKS, UP, HEAD = CONFIG["looks"], CONFIG["up"], CONFIG["head"]
SUNK = CONFIG["sunk"]  # of its height, in the table
# Without the fox: the bowl with the orange, which then stands on the table twice.
BOWL = ((-1.0, -0.72, TABLE + 0.005), (-0.26, 0.02, 0.0))
# The wrong start: a turn about each axis in degrees, a shift in heads' heights, a scale.
START, RATES = CONFIG["start"], CONFIG["rates"]
WIDTH, ROWS = CONFIG["width"], CONFIG["rows"]
RAYS = CONFIG["rays"]  # of a step of the search


def trained(out: Path, steps: int, *arguments: str) -> tuple[Run, float]:
    """A scene trained by the command, unless it is there already; and the seconds that it took.

    Those are what the run's own metrics say, of whichever time it was trained.
    """
    if not is_trained(out, steps):
        command = [sys.executable, "-m", "jaxnerf", "train", f"--out={out}", f"--max_steps={steps}"]
        subprocess.run([*command, "--noevaluate", *arguments], check=True)
    run = jaxnerf.load_run(out)
    # One ray a pixel, in pictures as in the search.
    config = override(run.config, {"evaluation.edge_supersampling": 0.0})
    return dataclasses.replace(run, config=config), round(read_metrics(out)[-1]["seconds"], 1)


def is_trained(out: Path, steps: int) -> bool:
    """Whether a run has taken all its steps."""
    rows = read_metrics(out)
    return bool(rows) and rows[-1]["step"] >= steps


def upright(looks: Any, up: Any) -> np.ndarray:
    """The rotation that turns the way something looks to -y, and its up to +z."""
    up = np.asarray(up, np.float64) / np.linalg.norm(up)
    front = np.asarray(looks, np.float64) - np.dot(looks, up) * up
    front /= np.linalg.norm(front)
    return np.stack([np.cross(-front, up), -front, up])


def standing(rotation: np.ndarray, middle: np.ndarray, half: float, sunk: float) -> Similarity:
    """The placement that puts a thing of half a height on the table, its middle above the spot."""
    scale = 0.5 * HEIGHT / half
    target = np.array([*SPOT, TABLE + (0.5 - sunk) * HEIGHT])
    return Similarity(scale, rotation, target - scale * rotation @ middle)


def head_of(runs: Path, data: Path, steps: int, told: dict[str, Any]) -> Part:
    """The fox's head, trained, cropped and on its place."""
    flags = (f"--data={data}", "--config=five_minutes", "--scene.downscale=4")
    fox, told["fox_seconds"] = trained(runs / "fox", steps, *flags)
    rotation, box = upright(LOOKS, UP), np.eye(4)
    box[:3, :3] = rotation.T @ np.diag([HEAD["along"], HEAD["out"], HEAD["up"]])
    box[:3, 3] = HEAD["middle"]
    place = standing(rotation, box[:3, 3], HEAD["up"], SUNK)
    return Part(fox, place, crop=(Region.from_matrix(box, "ball"),))


def scenes(runs: Path, data: Path | None, steps: int) -> tuple[ComposedRun, dict[str, Any]]:
    """Both scenes, trained and put together, and what is to be told of that."""
    told: dict[str, Any] = {"steps": steps, "start": START, "rates": RATES, "height": HEIGHT}
    demo, told["demo_seconds"] = trained(runs / "demo", steps)
    table = Part(demo, crop=CLEARED, keep="outside")
    if data is not None:
        told["object"] = "the fox's head"
        return compose([table, head_of(runs, data, steps, told)]), told
    told["object"] = "the bowl of the demo scene, since JAXNERF_DATA names no folder with the fox"
    print(told["object"])
    low, high = np.array(BOWL)
    place = standing(np.eye(3), 0.5 * (low + high), 0.5 * (high - low)[2], 0.0)
    return compose([table, Part(demo, place, crop=(Region.box(low, high),))]), told


def view(azimuth: float, width: int = WIDTH) -> Camera:
    """A camera around the table, by its angle in degrees."""
    angle = np.deg2rad(azimuth)
    eye = (2.9 * np.sin(angle), -2.9 * np.cos(angle), 0.75)
    height = width * ROWS // WIDTH
    return Camera.look_at(eye, (0.05, -0.1, -0.2), width=width, height=height, field_of_view=38.0)


def orbit(scene: ComposedRun, frames: int) -> list[Image.Image]:
    """Pictures all around."""
    return [picture(scene.render(view(360.0 * i / frames)).colour) for i in range(frames)]


def picture(colour: Any) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(np.asarray(colour), 0.0, 1.0) * 255).astype(np.uint8))


def difference(found: Any, true: Any, centre: np.ndarray, eye: np.ndarray) -> dict[str, float]:
    """How far a placement is off: in degrees, in percent of the height and of the scale."""
    (turn, scale, _), (right, size, _) = parts_of(found), parts_of(true)
    degrees = np.rad2deg(Rotation.from_matrix(turn @ right.T).magnitude())
    middles = [(matrix_of(x) @ [*centre, 1.0])[:3] for x in (found, true)]
    shift, sight = (middles[0] - middles[1]) / HEIGHT, middles[1] - eye
    across = np.linalg.norm(np.cross(shift, sight / np.linalg.norm(sight)))
    return {
        "degrees": round(float(degrees), 3),
        "percent_of_height": round(100.0 * float(np.linalg.norm(shift)), 3),
        "percent_of_height_across_the_line_of_sight": round(100.0 * float(across), 3),
        "percent_of_scale": round(100.0 * abs(scale / size - 1.0), 3),
    }


def recover(
    scene: ComposedRun, seen: np.ndarray, camera: Camera, start: Any, centre: np.ndarray, steps: int
) -> Any:
    """The placement of the second part that one picture is explained by, from a wrong one.

    Args:
      scene: with the part in the wrong place.
      seen: the picture.
      camera: that took it.
      start: the wrong placement, in the working frame.
      centre: of the part, in its scene's frame: what it turns about.
      steps: of Adam.
    """
    rays = cast_rays(
        scene.in_working_frame(camera), pixel_centres(*map(int, camera.size)).reshape(-1, 2)
    )
    target = jnp.asarray(seen.reshape(-1, 3), jnp.float32)
    arrays, kind = split_field(scene.field)
    # All rays of a batch may meet something, more than those of a whole picture do.
    sampler = map_occupancy_samplers(OccupancySampler.with_larger_buffer, scene.sampler_for(camera))
    rates = jnp.asarray([RATES["turn"]] * 3 + [RATES["shift"]] * 3 + [RATES["growth"]])
    optimizer = optax.adam(optax.cosine_decay_schedule(1.0, steps, 0.05))

    def after(move):
        return start.moved(move[:3], move[3:6], move[6], jnp.asarray(centre, jnp.float32))

    def loss(move, arrays, params, chosen):
        field = join_field(arrays, kind)
        placed = dataclasses.replace(field.fields[1], placement=after(move))
        field = dataclasses.replace(field, fields=(field.fields[0], placed))
        some = jax.tree.map(lambda x: x[chosen], rays)
        found = render_rays(field, params, some, sampler)
        error = jnp.abs(found.colour - target[chosen]).mean(axis=-1)
        return jnp.mean(jnp.where(found.samples.fits, error, 0.0))

    @jax.jit
    def step(move, state, arrays, params, number):
        chosen = jax.random.randint(jax.random.key(number), (RAYS,), 0, target.shape[0])
        value, slope = jax.value_and_grad(loss)(move, arrays, params, chosen)
        change: Any
        change, state = optimizer.update(slope, state)
        return move + rates * change, state, value

    move = jnp.zeros(7)
    state = optimizer.init(move)
    values = []
    for number in range(steps):
        move, state, value = step(move, state, arrays, scene.params, number)
        values.append(float(value))
    return after(move), values


def main() -> None:
    """Train, put together, go around, and find the placement again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/put_together"))
    parser.add_argument(
        "--steps", type=int, default=CONFIG["steps"], help="of training of each scene"
    )
    parser.add_argument("--frames", type=int, default=CONFIG["frames"])
    parser.add_argument("--search", type=int, default=CONFIG["search"], help="steps of the search")
    given = parser.parse_args()
    data = Path(os.environ.get("JAXNERF_DATA", ".")) / "fox"
    scene, results = scenes(given.runs, data if data.is_dir() else None, given.steps)

    begin = moment = time.monotonic()
    frames = orbit(scene, given.frames)
    results["orbit"] = {"frames": len(frames), "width": WIDTH, "height": ROWS,
                        "seconds": round(time.monotonic() - moment, 1)}  # fmt: skip
    save(frames, HERE / "orbit.webp")
    save_results(results)

    moment, camera = time.monotonic(), view(-20.0, 128)
    true = scene.field.fields[1].placement
    centre = middle_of(scene.parts[1])
    seen = np.asarray(scene.render(camera).colour)
    eye = np.asarray(scene.in_working_frame(camera).camera_to_world)[:, 3]
    turn = jnp.asarray(np.deg2rad(START["turn"]), jnp.float32)
    shift = jnp.asarray(np.array(START["shift"]) * HEIGHT / scene.frame.scale, jnp.float32)
    wrong = true.moved(turn, shift, np.log(START["scale"]), jnp.asarray(centre, jnp.float32))
    results["search"] = {
        "pixels": [int(x) for x in camera.size],
        "rays_a_step": RAYS,
        "steps": given.search,
        "before": difference(wrong, true, centre, eye),
    }
    found, values = recover(scene, seen, camera, wrong, centre, given.search)
    results["search"] |= {
        "after": difference(found, true, centre, eye),
        "loss_first": round(values[0], 5),
        "loss_last": round(float(np.mean(values[-10:])), 5),
        "seconds": round(time.monotonic() - moment, 1),
    }
    training = results["demo_seconds"] + results.get("fox_seconds", 0.0)
    results["seconds"] = round(training + time.monotonic() - begin, 1)
    save_results(results)
    views = [with_second(scene, at).render(view(-20.0)).colour for at in (true, wrong, found)]
    picture(np.concatenate(views, axis=1)).save(HERE / "placement.webp", quality=85)
    print(json.dumps(results, indent=2))


def middle_of(part: Part) -> np.ndarray:
    """The middle of a part's crop, in the frame of its scene."""
    to_unit = np.asarray(part.crop[0].to_unit, np.float64)
    middle = -np.linalg.solve(to_unit[:, :3], to_unit[:, 3])
    return part.run.scene.to_user.inverse().points(middle)


def with_second(scene: ComposedRun, placement: Placement) -> ComposedRun:
    """The scene with its second part elsewhere, by a placement of the working frame."""
    part = scene.parts[1]
    matrix = matrix_of(scene.frame) @ matrix_of(placement)
    return scene.placed(1, matrix @ matrix_of(part.run.scene.to_user.inverse()))


def save(frames: list[Image.Image], path: Path) -> None:
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=140, loop=0, quality=60, method=6
    )


def save_results(results: dict[str, Any]) -> None:
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
