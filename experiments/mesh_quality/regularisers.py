"""What losses in training that concentrate or flatten surfaces do for meshes, and cost in PSNR.

    pip install mitsuba 'jaxnerf[export]'
    python experiments/mesh_quality/regularisers.py --runs runs/regularisers --seeds 2

Trains the demo scene with each loss added to those of the preset, and measures the test views, the
rendered normals and the mesh of `jaxnerf export` as mesh_quality.py does. Prints a table, and leaves
regularisers.json in this file's folder. What is in the folder of runs already is not done again.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from PIL import Image

from jaxnerf import Run, Scene, load_run, load_scene
from jaxnerf.cli.common import prepare_cpu, use_compilation_cache
from jaxnerf.compositing import unit
from jaxnerf.config.adaptation import adapt_to_scene, load_for
from jaxnerf.config.presets import preset, with_settings
from jaxnerf.evaluation import blend, psnr
from jaxnerf.fields import Params
from jaxnerf.fields.wrapping import Wrapping
from jaxnerf.methods import first_state, state_like, trainer_of
from jaxnerf.rendering import Rendering
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.folder import create_folder
from jaxnerf.scenes import Split
from jaxnerf.training import Batch, PhotometricLoss, Target, mean_over_rays
from jaxnerf.training.loop import train
from jaxnerf.training.state import TrainState
from jaxnerf.training.step import Step

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "reflections"))
from reflections import (  # noqa: E402
    MATERIALS,  # pyright: ignore[reportAttributeAccessIssue]
    known_objects,  # pyright: ignore[reportAttributeAccessIssue]
)

DEMO = HERE.parents[1] / "jaxnerf" / "scenes" / "demo"
MESH = {"how": "tsdf", "resolution": 256, "views": 34}  # settings of the export
# Of the test views one is measured, and of those one has its normals measured.
EVERY, EVERY_NORMAL = 4, 2
PRESET = "minute"
SETTINGS: dict[str, Any] = {}  # others than the preset's
# Of the steps: from here on losses are added, which is when the preset's last stage begins.
FROM = 0.3
# A batch is groups of so many rays, of which the first four are the corners of a square, so many
# pixels apart: normals of depths are best from differences over two or three voxels (README).
GROUP, APART = 8, 2
# Of the light, what each corner of a square on a surface stops at least; and a surface that is steeper,
# in depth by distance across the view, is taken for an edge (as `jaxnerf.rendering.normals` has them).
OPAQUE, STEEP = 0.5, 3.0
# Rises of density, in 1/unit^2, that are small beside it have no direction: a voxel of 0.01 that stops
# a hundredth of the light beside an empty one has 100.
RISE = 1.0


@dataclasses.dataclass(frozen=True)
class Added:
    """The weights of what is added to the losses of the preset.

    Attributes:
      distortion: of `jaxnerf.compositing.distortion_of`.
      concentration: of `concentration`.
      normals: of `disagreement`.
      squares: whether half of the rays are the corners of squares, as for `disagreement`.
    """

    distortion: float = 0.0
    concentration: float = 0.0
    normals: float = 0.0
    squares: bool = False


ROWS = {
    "nothing": Added(),
    "distortion 0.01": Added(distortion=0.01),
    "distortion 0.1": Added(distortion=0.1),
    "concentration 0.01": Added(concentration=0.01),
    "squares alone": Added(squares=True),
    "normals 0.001": Added(normals=0.001, squares=True),
    "normals 0.01": Added(normals=0.01, squares=True),
    "normals 0.03": Added(normals=0.03, squares=True),
    "normals 0.01 and distortion 0.01": Added(normals=0.01, distortion=0.01, squares=True),
}


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithSurface(Wrapping):
    """A field that says, as extras, the direction in which its density falls, and the place.

    Accumulated along a ray, as colours are, these are the rendered normal and, divided by the opacity,
    the mean place where light was stopped. Implements `jaxnerf.fields.Field`.
    """

    field: Any

    def density(
        self, params: Params, positions: Float[Array, "*batch 3"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch F"]]:
        """The inner field's, with six more features."""
        density, pull_back, features = jax.vjp(
            lambda x: self.field.density(params, x), positions, has_aux=True
        )
        (rise,) = pull_back(jnp.ones_like(density))
        length = jnp.sqrt(jnp.sum(rise**2, axis=-1, keepdims=True) + RISE**2)
        return density, jnp.concatenate([features, -rise / length, positions], axis=-1)

    def colour(self, params: Params, features: Any, view_directions: Any) -> Any:
        """The inner field's."""
        return self.field.colour(params, features[..., :-6], view_directions)

    @property
    def extras(self) -> Any:
        """Normal and place of a sample, from its features."""
        return lambda params, features: (features[..., -6:-3], features[..., -3:])


def concentration(rendering: Rendering) -> Float[Array, "*batch"]:
    """T^2 (1 - T)^2 of the light T that each ray has left: 0 where all or none is (SVRaster, 2024)."""
    left = 1.0 - rendering.opacity
    return (left * (1.0 - left)) ** 2


def disagreement(rendering: Rendering) -> tuple[Float[Array, " S"], Bool[Array, " S"]]:
    """1 - n . m for each square of rays, with n the rendered normal and m that of the rendered depths.

    n is the mean of the corners' rendered normals, which are shorter than 1 where a ray meets several
    directions; m is across the diagonals of the mean places that the corners show. Both have gradients
    (Dai et al., "2D Gaussian Splatting", 2024, eq. 14, of an image's pixels).

    Args:
      rendering: of `WithSurface`, of a batch of `with_squares`.

    Returns:
      That; and which squares count: all corners have room and are opaque, and no edge goes through.
    """
    normal, place, opacity, depth, fits = (
        corners(x)
        for x in (
            *rendering.extras, rendering.opacity, rendering.depth, rendering.samples.fits,
        )
    )  # fmt: skip
    opaque = fits & (opacity > OPAQUE)
    place = place / jnp.where(opaque, opacity, 1.0)[..., None]
    flat, diagonals = opaque.all(axis=-1), []
    for one, other in ((2, 1), (3, 0)):
        diagonal = place[:, one] - place[:, other]
        away = (depth[:, one] - depth[:, other]) ** 2
        flat &= away <= STEEP**2 * (jnp.sum(diagonal**2, axis=-1) - away)
        diagonals.append(diagonal)
    # What does not count has some direction, or its gradient would be no number.
    down_left, down_right = (
        jnp.where(flat[:, None], diagonal, jnp.eye(3)[None, axis])
        for axis, diagonal in enumerate(diagonals)
    )
    # Rows go down: this points to the camera.
    of_depth = unit(jnp.cross(down_left, down_right))
    difference = 1.0 - jnp.sum(jnp.mean(normal, axis=1) * of_depth, axis=-1)
    return jnp.where(flat, difference, 0.0), flat


def corners(values: Array) -> Array:
    """What belongs to the squares' corners [S, 4, ...], of what belongs to a batch's rays [R, ...]."""
    if values.shape[0] % GROUP:
        raise ValueError(f"{values.shape[0]} rays on a device are no groups of {GROUP}")
    return values.reshape(-1, GROUP, *values.shape[1:])[:, :4]


def with_squares(batch: Batch, split: Split) -> Batch:
    """A batch in which every fourth of a group's rays, twice, is the corner of a square of four.

    Args:
      batch: whose first ray of each group stays, and has the square's other corners to its right, below,
        and right below, in the order of rows, instead of the next three rays.
      split: of the photographs.
    """
    assert split.images is not None
    block = math.isqrt(batch.pixels.shape[1])
    height, width = split.images.shape[1:3]
    corner = np.asarray(batch.middle) - 0.5 * block
    corner = corner.astype(np.int64).reshape(-1, GROUP, 2)
    first = np.minimum(corner[:, :1], np.array([width, height]) - block - APART)
    corner[:, :4] = first + APART * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    camera = np.array(batch.camera).reshape(-1, GROUP)
    camera[:, 1:4] = camera[:, :1]
    corner, camera = corner.reshape(-1, 2), camera.reshape(-1)
    down, right = np.divmod(np.arange(block * block), block)
    x, y = (corner[:, axis, None] + offset for axis, offset in ((0, right), (1, down)))
    return dataclasses.replace(
        batch,
        camera=camera,
        middle=(corner + 0.5 * block).astype(np.float32),
        pixels=split.images[camera[:, None], y, x],
    )


class Squares:
    """A strategy whose batches have squares of rays; see `jaxnerf.training.strategy.Strategy`."""

    def __init__(self, strategy: Any, split: Split):
        self._strategy, self._split = strategy, split

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def batch(self, state: Any, number: int, total: int) -> Batch:
        """The strategy's, with squares."""
        return with_squares(self._strategy.batch(state, number, total), self._split)


def loss_of(base: PhotometricLoss, added: Added, begun: Array) -> Any:
    """The preset's loss, and what is added from some step on.

    Args:
      base: the preset's.
      added: weights.
      begun: 1 from that step on, before it 0.
    """

    def loss(rendering: Rendering, target: Target) -> tuple[Array, dict[str, Array]]:
        value, reported = base(rendering, target)
        if added.distortion:
            spread = PhotometricLoss(distortion=added.distortion)(rendering, target)[0]
            value = value + begun * (spread - reported["mse"])
        if added.concentration:
            left = mean_over_rays(rendering, concentration(rendering))
            value = value + begun * added.concentration * left
        if added.normals:
            difference, _ = disagreement(rendering)
            value = value + begun * added.normals * jnp.mean(difference)
        return value, reported

    return loss


@dataclasses.dataclass(frozen=True)
class RegularisedStep(Step):
    """A step with losses that are added to those of colour and opacity."""

    opacity: float = 0.0
    added: Added = Added()

    def __call__(self, state: TrainState, *rest: Any) -> Any:
        share = jnp.float32(FROM) * state.total_steps.astype(jnp.float32)
        begun = (state.step.astype(jnp.float32) >= share).astype(jnp.float32)
        field = WithSurface(state.field) if self.added.normals else state.field
        loss = loss_of(PhotometricLoss(opacity=self.opacity), self.added, begun)
        step = dataclasses.replace(self, loss=loss)
        after, metrics, kept = Step.__call__(step, dataclasses.replace(state, field=field), *rest)
        return dataclasses.replace(after, field=state.field), metrics, kept


def add_to(trainer: Any, split: Split, opacity: float, added: Added) -> None:
    """Have the steps of a `Trainer` compute losses that are added to those of colour and opacity."""
    if added.squares:
        trainer.strategy = Squares(trainer.strategy, split)
    plain = trainer.one_step
    parts = {part.name: getattr(plain, part.name) for part in dataclasses.fields(plain)}
    trainer.one_step = RegularisedStep(**parts, opacity=opacity, added=added)


def leave_run(added: Added, steps: int, seed: int, folder: Path) -> float:
    """Train the preset with losses that are added, on from where the run in a folder stands.

    Returns:
      The processor's seconds that all steps took, which a shared machine changes less than a clock's.
    """
    length = {"training.steps": steps, "training.max_seconds": 0.0, "training.seed": seed}
    config = with_settings(preset(PRESET), length | SETTINGS)
    scene = load_for(config, None, ("train",))
    config = adapt_to_scene(config, scene, set(SETTINGS))
    trainer, split = trainer_of(config, scene), scene.splits["train"]
    checkpoints, taken = Checkpoints(folder), folder / "seconds.json"
    add_to(trainer, split, config.voxels.opacity_loss, added)
    state = checkpoints.restore(config, state_like(config)) if taken.exists() else None
    before = 0.0 if state is None else json.loads(taken.read_text())
    if state is None:
        create_folder(folder, config, scene, overwrite=True)
        state = first_state(config, scene)
    begun, seconds = time.process_time(), before
    for progress in train(state, trainer, report_every=100):
        told = {key: f"{progress.metrics[key]:.3g}" for key in ("mse", "samples", "dropped")}
        print(progress.step, told, flush=True)
        seconds = before + time.process_time() - begun
        if progress.step % 100 == 0 or progress.step == progress.total_steps:
            checkpoints.save(trainer.to_host(progress.state))
            taken.write_text(json.dumps(seconds))
    return round(seconds, 1)


def of_pictures(run: Run, scene: Scene) -> dict[str, float]:
    """PSNR in dB of the test views on white, and by how many degrees their normals are off."""
    split = scene.splits["test"]
    assert split.images is not None
    quality, angles, matte, cameras = [], [], [], run.cameras("test")
    for number in range(0, len(split), EVERY):
        wanted = number % (EVERY * EVERY_NORMAL) == 0
        seen = run.render(cameras[number], background=1.0, normals=wanted)
        quality.append(psnr(np.clip(seen.colour, 0.0, 1.0), blend(split.images[number], 1.0)))
        if wanted:
            off, known = off_by(number, np.asarray(seen.normals, np.float64))
            angles.append(off)
            matte.append(off[known])
    return {
        "psnr": float(np.mean(quality)),
        "normals": float(np.median(np.concatenate(angles))),
        "matte": float(np.median(np.concatenate(matte))),
    }


def off_by(number: int, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The angles, in degrees, of a test view's normals to the true ones where an object is.

    Returns:
      The angles; and which of them are of things that are matte.
    """
    objects = np.array(Image.open(DEMO / f"test/r_{number}_object.png"))
    truth = np.array(Image.open(DEMO / f"test/r_{number}_normal.png"), float) / 127.5 - 1.0
    shown, known = objects > 0, known_objects()
    truth = truth[shown] / np.linalg.norm(truth[shown], axis=-1, keepdims=True)
    cosine = np.clip((normals[shown] * truth).sum(axis=-1), -1.0, 1.0)
    matte = np.isin(objects[shown], [known[name] for name in MATERIALS["matte"]])
    return np.degrees(np.arccos(cosine)), matte


def of_mesh(folder: Path) -> dict[str, float]:
    """How near the mesh of a run comes to the true surfaces."""
    # They need Mitsuba, which training does not.
    import trimesh
    from mesh_quality import export
    from truth import compare, silhouettes, true_surfaces

    out = folder / "mesh.ply"
    if not out.exists():
        export(folder, out, MESH)
    mesh: Any = trimesh.load(out, process=False)
    return compare(mesh, true_surfaces()) | {"silhouette_iou": silhouettes(mesh)}


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table of the means over seeds."""
    digits = {"psnr": 2, "precision": 3, "recall": 3, "f_score": 3, "chamfer": 4, "silhouette_iou": 3,
              "median_angle": 1, "normals": 1, "matte": 1, "seconds": 0}  # fmt: skip
    print("| added | runs |", " | ".join(digits), "|")
    for name in dict.fromkeys(row["added"] for row in rows):
        of = [row for row in rows if row["added"] == name]
        means = {key: np.mean([row.get(key, np.nan) for row in of]) for key in digits}
        cells = (f"{mean:.{digits[key]}f}" for key, mean in means.items())
        print(f"| {name} | {len(of)} |", " | ".join(cells), "|")


def measure(name: str, seed: int, steps: int, folder: Path) -> None:
    """Leave in a run's folder what is measured of it; what it has already is not done again."""

    def kept(part: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        path = folder / f"{part}.json"
        if not path.exists():
            path.write_text(json.dumps(make()))
        return json.loads(path.read_text())

    if (folder / "measured.json").exists():
        return
    seconds = leave_run(ROWS[name], steps, seed, folder)
    row = {"added": name, "seed": seed, "steps": steps, "seconds": seconds}
    test = load_scene(images=("test",))
    row |= kept("pictures", lambda: of_pictures(load_run(folder), test))
    row |= kept("mesh", lambda: of_mesh(folder))
    (folder / "measured.json").write_text(json.dumps(row))


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder in which runs are left")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", default=",".join(ROWS), help="names, of which ones are trained")
    given = parser.parse_args()
    prepare_cpu(8192)
    use_compilation_cache()
    rows, order = [], list(ROWS)
    for seed in range(given.seeds):
        for name in given.rows.split(","):
            folder = given.runs / f"{name.replace(' ', '_')}_{seed}"
            measure(name, seed, given.steps, folder)
            rows = [json.loads(path.read_text()) for path in given.runs.glob("*/measured.json")]
            rows.sort(key=lambda row: (order.index(row["added"]), row["seed"]))
            (HERE / "regularisers.json").write_text(json.dumps(rows, indent=2) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
