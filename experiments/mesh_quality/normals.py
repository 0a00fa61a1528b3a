"""How near rendered normals of the demo scene come to its true ones, by several ways of finding them.

    jaxnerf train --config five_minutes --max_steps 2000 --out runs/demo
    python experiments/mesh_quality/normals.py --run runs/demo

Prints a table of the median angle, by the material behind each pixel, and leaves normals.json in this
file's folder.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxnerf import Run, load_run
from jaxnerf import compositing as comp
from jaxnerf.cameras import pixel_centres
from jaxnerf.cli.common import use_compilation_cache
from jaxnerf.runs.probing import finest_voxel

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "reflections"))
from reflections import (  # noqa: E402
    DEMO,  # pyright: ignore[reportAttributeAccessIssue]
    MATERIALS,  # pyright: ignore[reportAttributeAccessIssue]
    known_objects,  # pyright: ignore[reportAttributeAccessIssue]
)

# A tetrahedron's corners need four densities instead of the six of central differences.
_AXES = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
_CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32) / 3**0.5
AT_ONCE = 4096


def unit(vectors: Any) -> Any:
    """Vectors of length 1, or zero."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def difference(ask: Callable, points: Any, distance: Any, offsets: np.ndarray) -> Any:
    """The direction in which what is asked rises, from values at a distance on all sides."""

    def add(rise, offset):
        value = ask(points + (distance * offset)[None, :])
        return rise + value[:, None] * offset[None, :], None

    return unit(jax.lax.scan(add, jnp.zeros_like(points), jnp.asarray(offsets))[0])


@functools.partial(jax.jit, static_argnames="how")
def normals(field, params, sampler, rays, voxel, distance, how):
    """Normals of rays by a way, and whether there was room for their samples."""
    samples = sampler(field, params, rays, None)
    points = samples.positions(rays)

    def opacity(x):
        return 1.0 - jnp.exp(-field.density(params, x)[0] * voxel)

    value, pull = jax.vjp(lambda x: field.density(params, x)[0], points)
    weights = comp.weights_of(samples, value)
    if how == "at the median depth":
        depth = comp.median_depth_of(samples, value, rays)
        surface = rays.origins + depth[:, None] * rays.directions
        found = -difference(opacity, surface, distance * voxel, _AXES)
        return found, samples.fits
    if how.startswith("gradient"):
        (rise,) = pull(jnp.ones_like(value))
        rise = unit(rise) if how == "gradient" else rise
    elif how == "density":
        rise = difference(lambda x: field.density(params, x)[0], points, distance * voxel, _AXES)
    else:
        offsets = _CORNERS if how == "opacity, 4 corners" else _AXES
        rise = difference(opacity, points, distance * voxel, offsets)
    return unit(-comp.accumulated(samples, weights, rise)), samples.fits


WAYS = [
    ("gradient", 0.0), ("gradient, of any length", 0.0), ("density", 1.5),
    *(("opacity", d) for d in (1.0, 1.5, 2.0, 3.0)),
    ("opacity, 4 corners", 2.0),
    *(("at the median depth", d) for d in (1.5, 3.0)),
]  # fmt: skip


def of_depth(depth: np.ndarray, points: np.ndarray, towards: np.ndarray, reach: int) -> np.ndarray:
    """Normals of a picture of depths, from pixels so far beside, on the side that is nearer in depth."""
    steps, depth = [], np.where(np.isfinite(depth), depth, 1e6)
    points = np.where(np.isfinite(points), points, 1e6)
    for axis in (1, 0):
        ahead, behind = (np.roll(points, -s, axis) - points for s in (reach, -reach))
        far = [np.abs(np.roll(depth, -s, axis) - depth) for s in (reach, -reach)]
        both = (np.maximum(*far) < 2.0 * np.minimum(*far) + 1e-9)[..., None]
        nearer = np.where((far[0] < far[1])[..., None], ahead, -behind)
        steps.append(np.where(both, ahead - behind, nearer))
    normal = np.cross(steps[0], steps[1])
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    side = np.sign((normal * towards).sum(axis=-1, keepdims=True))
    return np.where(side == 0.0, normal, side * normal)


def looked(run: Run, number: int, voxel: float, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Normals [N, 3] of chosen pixels of a test view by each way."""
    camera = run.cameras("test")[number]
    places = pixel_centres(int(camera.size[0]), int(camera.size[1]))
    pixels, shown = places[chosen], {}
    padded = np.pad(pixels, ((0, -len(pixels) % AT_ONCE), (0, 0)), mode="edge")
    rays = [
        run.rays(camera, jnp.asarray(part, jnp.float32))
        for part in np.split(padded, len(padded) // AT_ONCE)
    ]
    for how, distance in WAYS:
        scale = np.float32(voxel), np.float32(distance)
        parts = [normals(run.field, run.params, run.sampler, some, *scale, how) for some in rays]
        found, fits = (np.concatenate(x)[: len(pixels)] for x in zip(*parts, strict=True))
        name = f"{how}, {distance} voxels" if distance else how
        shown[name] = np.where(fits[:, None], found, np.nan)
    depth = np.asarray(run.render(camera, background=0.0).depth_median, np.float64)
    every = run.rays(camera, jnp.asarray(places, jnp.float32))
    along = np.asarray(every.directions, np.float64)
    points = np.asarray(every.origins) + depth[..., None] * along
    for reach in (1, 2, 3):
        name = f"median depths, {reach} pixels beside"
        shown[name] = of_depth(depth, points, -along, reach)[chosen]
    return shown


def medians(run: Run, views: list[int]) -> dict[str, dict[str, float]]:
    """The median angle to the true normals, in degrees, by each way: of materials, and of all pixels."""
    voxel = (finest_voxel(run) or 0.01) / run.scene.to_user.scale
    angles: dict[str, list] = {}
    ids, known = [], known_objects()
    for number in views:
        objects = np.array(Image.open(DEMO / f"test/r_{number}_object.png"))
        chosen = np.zeros(objects.shape, bool)
        chosen[::2, ::2] = objects[::2, ::2] > 0
        truth = np.array(Image.open(DEMO / f"test/r_{number}_normal.png"), float)[chosen]
        truth = truth / 127.5 - 1.0
        truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
        for way, found in looked(run, number, voxel, chosen).items():
            cosine = np.clip((found * truth).sum(axis=-1), -1.0, 1.0)
            angles.setdefault(way, []).append(np.degrees(np.arccos(cosine)))
        ids.append(objects[chosen])
    of = np.concatenate(ids)
    groups = {k: np.isin(of, [known[name] for name in names]) for k, names in MATERIALS.items()}
    groups["all"] = np.ones_like(of, bool)
    return {
        way: {kind: round(float(np.nanmedian(np.concatenate(parts)[mask])), 1)
              for kind, mask in groups.items()}
        for way, parts in angles.items()
    }  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a run on the demo scene")
    parser.add_argument("--every", type=int, default=5, help="of the test views one is measured")
    given = parser.parse_args()
    use_compilation_cache()
    rows = medians(load_run(given.run), list(range(0, 40, given.every)))
    (HERE / "normals.json").write_text(json.dumps(rows, indent=2) + "\n")
    kinds = list(next(iter(rows.values())))
    print("| way |", " | ".join(kinds), "|")
    for way, row in rows.items():
        print(f"| {way} |", " | ".join(f"{row[kind]:.1f}" for kind in kinds), "|")


if __name__ == "__main__":
    main()
