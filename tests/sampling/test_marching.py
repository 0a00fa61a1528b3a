"""Walking through occupied space: against a loop over samples, and the plain renderer."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lattice import lattice_vertices

from jaxnerf import Camera, OccupancySampler, Rays, Stratified, render_image, render_rays
from jaxnerf.cameras import cast_rays, pixel_centres
from jaxnerf.fields.voxels import VoxelField, VoxelParams, VoxelSettings
from jaxnerf.sampling.occupancy import Occupancy, encode

CELLS, CELL = 8, 0.25  # a cube from -1 to 1
BLACK = jnp.zeros(3)
ENOUGH = {"samples": 99, "max_steps": 120, "mean_samples": 80.0}
render = functools.partial(jax.jit, static_argnums=0, static_argnames="normals")(render_rays)


@dataclasses.dataclass(frozen=True)
class Blob:
    """A Gaussian ball, whose colour depends on the place and a little on the direction."""

    shading: str = "sample"
    peak: float = 6.0

    def init(self, key):
        return {"centre": jnp.array([0.1, -0.1, 0.05]), "peak": jnp.array(self.peak)}

    def density(self, params, positions):
        offset = positions - params["centre"].reshape((1,) * (positions.ndim - 1) + (3,))
        return params["peak"] * jnp.exp(-8.0 * jnp.sum(offset**2, axis=-1)), 0.5 + 0.4 * positions

    def colour(self, params, features, view_directions):
        return jnp.clip(features + 0.1 * view_directions, 0.0, 1.0)


def everywhere(density: float = 0.01, step: float = 0.05, mask=None) -> Occupancy:
    """Every cell holds something, little enough that no ray is ended."""
    mask = np.ones((CELLS,) * 3, bool) if mask is None else mask
    cells = encode(jnp.asarray(mask), jnp.full(mask.shape, density * CELL))
    return Occupancy(cells, jnp.full(3, -1.0), jnp.float32(CELL), jnp.float32(step))


def some_rays(count: int = 20, seed: int = 0) -> Rays:
    """Through the cube and past it, with directions of any length."""
    random = np.random.default_rng(seed)
    start = random.normal(size=(count, 3))
    start *= 3.0 / np.linalg.norm(start, axis=-1, keepdims=True)
    along = random.uniform(-0.7, 0.7, (count, 3)) - start
    start[:3] += 2.0 * along[:3] / np.linalg.norm(along[:3], axis=-1, keepdims=True)  # from within
    along[-2:] *= -1.0  # away from it
    unit = along / np.linalg.norm(along, axis=-1, keepdims=True)
    along = unit * random.uniform(0.4, 2.5, (count, 1))
    near, far = np.zeros(count), np.full(count, 20.0)
    return Rays(*(jnp.asarray(part, jnp.float32) for part in (start, along, unit, near, far)))


def slow_render(field, params, occupancy: Occupancy, rays: Rays, background) -> list[dict]:
    """Ray by ray, sample by sample, on the lattice of steps from where the ray enters the cube."""
    low = np.asarray(occupancy.origin, np.float64)
    high = low + float(occupancy.cell) * len(occupancy.cells)
    step, seen = float(occupancy.step), []
    longest = math.ceil(math.sqrt(3.0) * float((high - low).max()) / step) + 1
    density_of, colour_of = jax.jit(field.density), jax.jit(field.colour)
    for lane in range(len(rays.near)):
        start, along, unit = (
            np.asarray(part[lane], np.float64)
            for part in (rays.origins, rays.directions, rays.view_directions)
        )
        first, last = (low - start) / along, (high - start) / along
        near = max(np.minimum(first, last).max(), float(rays.near[lane]))
        far = min(np.maximum(first, last).min(), float(rays.far[lane]))
        length = np.linalg.norm(along)
        t = np.arange(near + 0.5 * step / length, far, step / length)
        light, weights, colours, median = 1.0, [], [], float(rays.far[lane])
        if len(t):
            at = np.zeros((longest, 3), np.float32)  # of one shape for all rays
            at[: len(t)] = start + t[:, None] * along
            density, features = (
                np.asarray(x, np.float64)[: len(t)] for x in density_of(params, at)
            )
            for place in range(len(t)):
                passes = np.exp(-density[place] * step)
                weights.append(light * (1.0 - passes))
                if light > 0.5 >= light * passes:
                    part = np.log(2.0 * light) / (density[place] * step)
                    median = t[place] + (part - 0.5) * step / length
                light *= passes
                row = np.float32(features[place : place + 1])
                colours.append(np.asarray(colour_of(params, row, np.float32(unit[None])))[0])
        weights = np.asarray(weights)
        opacity = weights.sum()
        if field.shading == "ray" and opacity:
            mean = np.float32(weights @ features / max(opacity, 1e-3))[None]
            colour = opacity * np.asarray(colour_of(params, mean, np.float32(unit[None])))[0]
        else:
            colour = weights @ np.asarray(colours).reshape(-1, 3)
        depth = weights @ t / opacity if opacity else float(rays.far[lane])
        colour = colour + (1.0 - opacity) * np.asarray(background[lane])
        seen.append({"colour": colour, "opacity": opacity, "depth": depth, "depth_median": median,
                     "distance": depth * length, "samples": len(t)})  # fmt: skip
    return seen


@pytest.mark.parametrize("shading", ["sample", "ray"])
def test_rays_are_composited_as_by_a_loop(shading):
    field, rays = Blob(shading), some_rays()
    params, occupancy = field.init(None), everywhere()
    background = jnp.linspace(0.0, 1.0, 60, dtype=jnp.float32).reshape(20, 3)
    seen = render(field, params, rays, OccupancySampler(occupancy, **ENOUGH), None, background)
    assert np.asarray(seen.samples.fits).all()
    expected = slow_render(field, params, occupancy, rays, background)
    assert int(seen.samples.used.sum()) == pytest.approx(
        sum(one["samples"] for one in expected), abs=2
    )
    hit = np.array([one["opacity"] > 1e-3 for one in expected])
    assert 10 < hit.sum() < len(hit)
    for name in ("colour", "opacity", "depth", "depth_median", "distance"):
        values = np.asarray(getattr(seen, name))
        np.testing.assert_allclose(
            values[hit], np.array([one[name] for one in expected])[hit], rtol=2e-3, atol=2e-4,
            err_msg=name,
        )  # fmt: skip
    np.testing.assert_allclose(seen.colour[-2:], background[-2:])
    np.testing.assert_array_equal(np.asarray(seen.opacity)[-2:], 0.0)
    np.testing.assert_array_equal(np.asarray(seen.depth)[-2:], 20.0)


def test_rays_approximate_the_plain_renderer_with_or_without_jitter():
    field, rays = Blob(), some_rays(40)
    params = field.init(None)
    expected = render(field, params, rays, Stratified(1500))
    for key in (None, jax.random.key(4)):
        seen = render(field, params, rays, OccupancySampler(everywhere(), **ENOUGH), key)
        np.testing.assert_allclose(seen.colour, expected.colour, atol=1e-2)
        np.testing.assert_allclose(seen.opacity, expected.opacity, atol=1e-2)


def test_finer_samples_come_nearer_to_the_plain_renderer():
    field, rays, coarse = Blob(peak=40.0), some_rays(200), everywhere(step=0.4)
    params = field.init(None)
    exact = render(field, params, rays, Stratified(1500))
    errors = []
    for finer in (1, 2, 4):
        limits = {name: finer * limit for name, limit in ENOUGH.items()}
        sampler = OccupancySampler(coarse, samples_per_voxel=finer, **limits)
        seen = render(field, params, rays, sampler)
        errors.append(float(jnp.sqrt(jnp.mean((seen.colour - exact.colour) ** 2))))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.5 * errors[1]


def test_jumping_over_empty_cells_changes_nothing():
    field = Blob(peak=30.0)
    params, rays = field.init(None), some_rays(40)
    centres = (np.argwhere(np.ones((CELLS,) * 3)) + 0.5) * CELL - 1.0
    away = np.linalg.norm(centres - np.asarray(params["centre"]), axis=-1)
    mask = (away < 1.3).reshape((CELLS,) * 3)
    full = render(field, params, rays, OccupancySampler(everywhere(), **ENOUGH))
    sparse = render(field, params, rays, OccupancySampler(everywhere(mask=mask), **ENOUGH))
    assert int(sparse.samples.used.sum()) < int(full.samples.used.sum())
    np.testing.assert_allclose(sparse.colour, full.colour, atol=1e-4)


def test_rays_that_overflow_the_budget_are_not_rendered_and_say_so():
    field, rays = Blob(), some_rays()
    params, occupancy = field.init(None), everywhere()
    sampler = OccupancySampler(occupancy, **ENOUGH)
    large = render(field, params, rays, sampler, None, BLACK)
    few = dataclasses.replace(sampler, mean_samples=15.0)
    small = render(field, params, rays, few, None, BLACK)
    kept = np.asarray(small.samples.fits)
    assert 3 < kept.sum() < 17
    same = functools.partial(np.testing.assert_allclose, atol=1e-6)
    same(small.colour[kept], large.colour[kept])
    assert (np.asarray(small.opacity)[~kept] == 0.0).all()
    assert (np.asarray(small.colour)[~kept] == 0.0).all()


def test_normals_point_out_of_a_ball():
    field, rays = Blob(peak=60.0), some_rays()
    params = field.init(None)
    sampler = OccupancySampler(everywhere(step=0.02), **ENOUGH)
    seen = render(field, params, rays, sampler, normals=True)
    hit = np.asarray(seen.opacity) > 0.9
    assert hit.sum() > 5
    at = rays.origins + seen.depth[:, None] * rays.directions
    out = np.asarray(at - params["centre"][None, :])
    out = out / np.linalg.norm(out, axis=-1, keepdims=True)
    assert ((np.asarray(seen.normals) * out).sum(axis=-1)[hit] > 0.97).all()
    assert (np.asarray(seen.normals)[-2:] == 0.0).all()


@pytest.mark.parametrize("shading", ["sample", "ray"])
def test_gradients_are_those_of_finite_differences(shading):
    field, rays, aim = Blob(shading), some_rays(), jax.random.normal(jax.random.key(0), (20, 3))

    @jax.jit
    def loss(params):
        sampler = OccupancySampler(everywhere(), **ENOUGH)
        seen = render_rays(field, params, rays, sampler, jax.random.key(1), 0.5)
        return jnp.sum(aim * seen.colour) + jnp.sum(seen.opacity)

    params = {"centre": jnp.array([0.1, -0.1, 0.05]), "peak": jnp.array(6.0)}
    gradient = jax.jit(jax.grad(loss))(params)
    for axis in range(4):
        shift = {"centre": 1e-2 * jnp.eye(4)[axis, :3], "peak": jnp.float32(0.1 * (axis == 3))}
        ahead, behind = (
            loss(jax.tree.map(lambda p, s, sign=sign: p + sign * s, params, shift))
            for sign in (1.0, -1.0)
        )
        found = gradient["peak"] if axis == 3 else gradient["centre"][axis]
        slope = float(ahead - behind) / (0.2 if axis == 3 else 2e-2)
        assert float(found) == pytest.approx(slope, rel=1e-2, abs=5e-3)


def ball_of_voxels() -> tuple[VoxelField, VoxelParams]:
    """A smooth ball, whose features are a colour's logits."""
    cells, origin = np.ones((CELLS,) * 3, bool), np.full(3, -1.0, np.float32)
    field = VoxelField.on_lattice(cells, origin, CELL, 0.125, VoxelSettings(width=8), 0.0)
    params = field.init(jax.random.key(0))
    at = lattice_vertices(field.bricks) * 0.125 - 1.0
    density = 15.0 / (1.0 + np.exp(20.0 * (np.linalg.norm(at, axis=-1) - 0.55)))
    table = np.concatenate([np.log(np.expm1(0.125 * density))[:, None], 2.0 * at], axis=-1)
    table[:64] = [-15.0, 0.0, 0.0, 0.0]
    return field, dataclasses.replace(params, table=jnp.asarray(table, jnp.float32))


CAMERA = Camera.look_at((0.3, -3.5, 1.2), width=40, height=30, field_of_view=42.0)
PLENTY = {"samples": 128, "max_steps": 160, "mean_samples": 99.0}
# A first try, which leaves rays for others.
SOME = {"samples": 96, "max_steps": 160, "mean_samples": 12.0, "samples_per_voxel": 2}


def image(field, params, occupancy, camera=CAMERA, limits=SOME, **how):
    sampler = OccupancySampler(occupancy, **limits)
    given = {"near": 1.0, "far": 6.0, "background": (0.1, 0.2, 0.9)}
    return render_image(field, params, camera, sampler, **given, **how)


def assert_same_image(one, other, atol: float):
    for name in ("colour", "opacity", "depth", "depth_median", "distance"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), atol=atol, err_msg=name
        )


def test_a_picture_of_voxels_is_that_of_the_plain_renderer():
    field, params = ball_of_voxels()
    calls = []
    seen = image(
        field, params, everywhere(step=0.0125), normals=True,
        progress=lambda *done: calls.append(done),
    )  # fmt: skip
    expected = render_image(
        field, params, CAMERA, Stratified(400), near=1.0, far=6.0, background=(0.1, 0.2, 0.9),
        normals=True,
    )  # fmt: skip
    assert calls[-1] == (1200, 1200)
    assert np.ptp(expected.opacity) > 0.9
    assert -10.0 * np.log10(np.mean((seen.colour - expected.colour) ** 2)) > 45.0
    np.testing.assert_allclose(seen.opacity, expected.opacity, atol=0.02)
    hit = expected.opacity > 0.9
    np.testing.assert_allclose(seen.depth[hit], expected.depth[hit], atol=0.02)
    assert ((seen.normals * expected.normals).sum(axis=-1)[hit] > 0.99).all()


@pytest.mark.parametrize(
    ("limits", "chunk"),
    [
        (PLENTY | {"mean_samples": 1.5}, 256),
        (PLENTY | {"samples": 6}, 256),
        (PLENTY | {"max_steps": 9}, 256),
        ({"samples": 9, "max_steps": 20, "mean_samples": 2.0}, 128),
    ],
    ids=["mean_samples", "samples", "max_steps", "mean_samples and samples"],
)
def test_every_pixel_is_rendered_however_little_fits_at_once(limits, chunk):
    field, params = ball_of_voxels()
    occupancy, calls = everywhere(step=0.03), []
    whole = image(field, params, occupancy, limits=PLENTY)
    parts = image(
        field, params, occupancy, limits=limits, chunk=chunk,
        progress=lambda *done: calls.append(done),
    )  # fmt: skip
    assert_same_image(parts, whole, 1e-5)
    assert calls[-1] == (1200, 1200)


def test_rays_ended_too_early_by_what_cells_were_expected_to_hold_are_rendered_again():
    field, params = ball_of_voxels()
    whole = image(field, params, everywhere(step=0.03), limits=PLENTY)
    ends = everywhere(density=1e3, step=0.03)
    pixels = jnp.asarray(pixel_centres(40, 30).reshape(-1, 2))
    rays = jax.jit(cast_rays)(CAMERA, pixels, 1.0, 6.0)
    sampler = OccupancySampler(ends, **PLENTY)
    once = jax.jit(render_rays)(field, params, rays, sampler, None, BLACK)
    assert np.abs(once.opacity - whole.opacity.reshape(-1)).max() > 0.5
    assert_same_image(image(field, params, ends, limits=PLENTY), whole, 2 / 255)


def test_a_chunk_of_fewer_rays_than_a_ray_has_samples_comes_to_an_end():
    field, params = ball_of_voxels()
    camera, left = CAMERA.resized(4, 3), iter(range(200))

    def count(done: int, total: int):
        if next(left, None) is None:
            pytest.fail(f"no end: {done} of {total} rays after 200 chunks")

    limits = {"samples": 64, "max_steps": 128, "mean_samples": 8.0}
    occupancy = everywhere(step=0.03)
    few = image(field, params, occupancy, camera, limits, chunk=2, progress=count)
    whole = image(field, params, occupancy, camera=camera, limits=PLENTY)
    assert_same_image(few, whole, 1e-5)


def test_pixels_that_no_cell_is_behind_are_as_those_whose_ray_hits_nothing():
    field, params = ball_of_voxels()
    mask = np.zeros((CELLS,) * 3, bool)
    nothing = image(field, params, everywhere(mask=mask), normals=True)
    np.testing.assert_allclose(nothing.colour, np.broadcast_to([0.1, 0.2, 0.9], (30, 40, 3)))
    mask[3:5, 3:5, 3:5] = True
    few = image(field, params, everywhere(mask=mask))
    expected = render_image(
        Blob(peak=0.0), Blob(peak=0.0).init(None), CAMERA, Stratified(8),
        near=1.0, far=6.0, background=(0.1, 0.2, 0.9),
    )  # fmt: skip
    empty = few.opacity == 0.0
    assert 0.5 < empty.mean() < 1.0
    for name in ("colour", "depth", "depth_median", "distance"):
        for seen, where in ((nothing, slice(None)), (few, empty)):
            np.testing.assert_allclose(
                getattr(seen, name)[where], getattr(expected, name)[where], rtol=1e-5, err_msg=name
            )


def test_pixels_at_edges_are_the_mean_of_four_rays_and_others_are_left():
    field, params = ball_of_voxels()
    mask = np.ones((CELLS,) * 3, bool)
    mask[CELLS // 2 :] = False  # where the ball is cut in half, it ends at once
    occupancy = everywhere(step=0.0125, mask=mask)
    rough = image(field, params, occupancy, limits=PLENTY)
    smooth = image(field, params, occupancy, limits=PLENTY, edge_supersampling=0.05)
    at_edge = np.zeros((30, 40), bool)
    for y, x in np.ndindex(30, 40):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < 30 and 0 <= u < 40:
                step = np.abs(rough.colour[y, x] - rough.colour[v, u]).max()
                at_edge[y, x] |= step > 0.05
    assert 0.05 < at_edge.mean() < 0.6
    for name in ("colour", "opacity"):
        before, after = getattr(rough, name), getattr(smooth, name)
        np.testing.assert_array_equal(after[~at_edge], before[~at_edge])
    assert np.abs(smooth.colour - rough.colour)[at_edge].max() > 0.02
    for name in ("depth", "depth_median", "distance"):
        np.testing.assert_array_equal(getattr(smooth, name), getattr(rough, name))
    # As a picture with four times the pixels along each side has it, in the mean of sixteen.
    fine = image(field, params, occupancy, limits=PLENTY, camera=CAMERA.resized(160, 120))
    exact = fine.colour.reshape(30, 4, 40, 4, 3).mean(axis=(1, 3))
    error = [np.sqrt(np.mean((one.colour - exact)[at_edge] ** 2)) for one in (smooth, rough)]
    assert error[0] < 0.5 * error[1]


def test_a_picture_of_one_colour_has_no_edges():
    field, params = ball_of_voxels()
    nothing = everywhere(mask=np.zeros((CELLS,) * 3, bool))
    calls = []
    seen = image(
        field, params, nothing, edge_supersampling=0.01, progress=lambda *done: calls.append(done)
    )
    np.testing.assert_allclose(seen.colour, np.broadcast_to([0.1, 0.2, 0.9], (30, 40, 3)))
    assert not calls
