"""Samples as a value: both layouts, any leading shape, every function of them against slow loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import Camera, Hierarchical, OccupancySampler, Rays, Stratified, cast_rays, render_rays
from jaxnerf import compositing as comp
from jaxnerf.sampling import Sampler, Samples
from jaxnerf.sampling.occupancy import Occupancy, encode
from jaxnerf.training.calibration import rotations

CAMERA = Camera.look_at((0.0, -4.0, 1.0), width=12, height=12, field_of_view=30.0)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Cloud:
    """Smooth density around the origin; two labels beside the colour."""

    def init(self, key):
        return {"peak": jnp.asarray(3.0), "centre": jnp.asarray([0.1, -0.2, 0.0])}

    def density(self, params, positions):
        centre = jnp.broadcast_to(params["centre"], positions.shape)
        away = jnp.sum((positions - centre) ** 2, axis=-1)
        return params["peak"] * jnp.exp(-2.0 * away), jnp.sin(2.0 * positions)

    def colour(self, params, features, view_directions):
        return jax.nn.sigmoid(features + 0.3 * view_directions)

    def extras(self, params, features):
        return {
            "label": jax.nn.softmax(features[..., :2], axis=-1),
            "one": jnp.ones(features.shape[:-1]),
        }


def full_grid(cells: int = 8, step: float = 0.1, dtype=np.float32) -> Occupancy:
    code = encode(jnp.ones((cells,) * 3, bool), jnp.full((cells,) * 3, 1e-6))
    return Occupancy(
        code, jnp.full(3, -2.0, dtype), jnp.asarray(4.0 / cells, dtype), jnp.asarray(step, dtype)
    )


def rays_of(shape: tuple[int, ...], near=2.5, far=5.5) -> Rays:
    pixels = np.random.default_rng(0).uniform(0, 12, (*shape, 2))
    return cast_rays(CAMERA, jnp.asarray(pixels, jnp.float32), near, far)


SAMPLERS = {
    "stratified": Stratified(24),
    "hierarchical": Hierarchical((12, 12)),
    "start": Stratified(24, sample_at="start"),
    "occupancy": OccupancySampler(full_grid(), samples=60),
}


def rows(samples: Samples) -> list[dict[str, np.ndarray]]:
    """What belongs to each ray: its samples, one after the other, whichever the layout."""
    arrays = {
        name: np.asarray(getattr(samples, name), np.float64)
        for name in ("t", "t0", "t1", "length", "s0", "s1")
    }
    used = np.asarray(samples.used)
    if samples.packing is None:
        flat = {name: x.reshape(-1, x.shape[-1]) for name, x in arrays.items()}
        return [{k: x[ray] for k, x in flat.items()} for ray in range(len(flat["t"]))]
    return [{k: x[used[:, ray], ray] for k, x in arrays.items()} for ray in range(used.shape[1])]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_every_function_of_samples_is_that_of_a_slow_loop(name, shape):
    sampler, field, rays = SAMPLERS[name], Cloud(), rays_of(shape)
    params = field.init(None)
    assert isinstance(sampler, Sampler)

    @jax.jit
    def see(params, rays):
        rendering = render_rays(field, params, rays, sampler, None, 0.25)
        return rendering, comp.distortion_of(rendering.samples, rendering.weights)

    seen, distortion = see(params, rays)
    assert seen.colour.shape == (*shape, 3)
    assert np.asarray(seen.samples.complete).all()
    flat = jax.tree.map(
        lambda x: np.asarray(x, np.float64).reshape(-1, *x.shape[len(shape) :]), rays
    )
    for ray, row in enumerate(rows(seen.samples)):
        origin, along = flat.origins[ray], flat.directions[ray]
        at = jnp.asarray(origin + row["t"][:, None] * along, jnp.float32)
        density, features = (np.asarray(x, np.float64) for x in field.density(params, at))
        view = np.broadcast_to(flat.view_directions[ray], (len(at), 3))
        colours = np.asarray(
            field.colour(params, jnp.asarray(features, jnp.float32), jnp.asarray(view, jnp.float32))
        )
        labels = np.asarray(field.extras(params, jnp.asarray(features, jnp.float32))["label"])
        light, weights, median = 1.0, [], None
        for place in range(len(at)):
            depth = density[place] * row["length"][place]
            if median is None and light * np.exp(-depth) <= 0.5:
                part = np.log(2.0 * light) / depth
                median = row["t0"][place] + part * (row["t1"][place] - row["t0"][place])
            weights.append(light * -np.expm1(-depth))
            light *= np.exp(-depth)
        weights = np.asarray(weights)
        opacity = weights.sum()

        def of(values, ray=ray):
            return np.asarray(values).reshape(len(flat.near), -1)[ray].squeeze()

        close = {"rtol": 2e-3, "atol": 2e-4}
        np.testing.assert_allclose(of(seen.opacity), opacity, **close)
        np.testing.assert_allclose(
            of(seen.colour), weights @ colours + 0.25 * (1.0 - opacity), **close
        )
        np.testing.assert_allclose(of(seen.extras["label"]), weights @ labels, **close)
        np.testing.assert_allclose(of(seen.extras["one"]), opacity, **close)
        np.testing.assert_allclose(of(seen.depth), weights @ row["t"] / opacity, **close)
        if median is not None:  # the paper's last interval has no end, but the ray has
            median = min(median, flat.far[ray])
            np.testing.assert_allclose(of(seen.depth_median), median, **close)
        middle = 0.5 * (row["s0"] + row["s1"])
        pairs = np.abs(middle[:, None] - middle[None, :])
        spread = weights @ pairs @ weights + np.sum(weights**2 * (row["s1"] - row["s0"])) / 3.0
        np.testing.assert_allclose(of(distortion), spread, **close)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_own_intervals_that_do_not_overlap_within_the_ray(name):
    sampler, rays = SAMPLERS[name], rays_of((20,))
    samples = sampler(Cloud(), Cloud().init(None), rays, jax.random.key(2))
    norms = np.linalg.norm(np.asarray(rays.directions, np.float64), axis=-1)
    for row, norm in zip(rows(samples), norms, strict=True):
        assert (row["t0"] <= row["t"] + 1e-6).all()
        assert (row["t"] <= row["t1"] + 1e-6).all()
        assert (row["t1"][:-1] <= row["t0"][1:] + 1e-5).all()
        assert (np.diff(row["s0"]) >= -1e-6).all()
        assert row["t0"].min() >= 2.5 - 1e-5
        finite = row["t1"] < 1e6
        expected = (row["t1"] - row["t0"]) * norm
        np.testing.assert_allclose(row["length"][finite], expected[finite], rtol=1e-3, atol=1e-6)


def test_packed_and_dense_samples_of_the_same_places_render_the_same():
    """An occupancy whose step is a ray's, from a near within it, has the intervals of even sampling."""
    field, rays = Cloud(), rays_of((9,), 2.5, 5.0)
    params, norm = field.init(None), jnp.linalg.norm(rays.directions, axis=-1)
    rays = dataclasses.replace(
        rays, directions=rays.directions / norm[:, None], far=jnp.full(9, 5.0)
    )
    render = jax.jit(render_rays)
    packed = render(field, params, rays, OccupancySampler(full_grid(step=0.1), samples=30))
    dense = render(field, params, rays, Stratified(25))
    for name in ("colour", "opacity", "depth", "depth_median", "distance"):
        np.testing.assert_allclose(
            getattr(packed, name), getattr(dense, name), rtol=1e-3, atol=1e-4, err_msg=name
        )


def wide(tree):
    """The same in float64."""
    return jax.tree.map(
        lambda x: (
            jnp.asarray(np.asarray(x, np.float64)) if np.asarray(x).dtype == np.float32 else x
        ),
        tree,
    )


@pytest.mark.parametrize("name", ["dense", "packed"])
def test_gradients_to_parameters_poses_near_and_far_are_those_of_finite_differences(name):
    pixels = np.random.default_rng(0).uniform(0, 12, (7, 2))
    aim = np.random.default_rng(1).normal(size=(7, 3))
    with jax.enable_x64(True):
        grid = wide(full_grid(dtype=np.float64))
        sampler = Stratified(40) if name == "dense" else OccupancySampler(grid, samples=80)
        camera = wide(jax.tree.map(lambda x: np.asarray(x), CAMERA))
        start = {
            "params": wide(Cloud().init(None)),
            "turn": jnp.asarray([0.01, -0.02, 0.03]), "shift": jnp.asarray([0.02, 0.0, -0.05]),
            "near": jnp.asarray(2.8), "far": jnp.asarray(5.01),
        }  # fmt: skip

        @jax.jit
        def loss(given):
            pose = jnp.asarray(camera.camera_to_world)
            turned = rotations(given["turn"]) @ pose[:, :3]
            pose = jnp.concatenate([turned, (pose[:, 3] + given["shift"])[:, None]], axis=1)
            posed = dataclasses.replace(camera, camera_to_world=pose)
            rays = cast_rays(posed, jnp.asarray(pixels), given["near"], given["far"])
            seen = render_rays(Cloud(), given["params"], rays, sampler, None, 0.3)
            return jnp.sum(jnp.asarray(aim) * seen.colour) + 0.1 * jnp.sum(seen.depth)

        gradient = jax.jit(jax.grad(loss))(start)
        leaves, structure = jax.tree.flatten(start)
        slopes = jax.tree.leaves(gradient)
        for leaf, slope, path in zip(
            range(len(leaves)), slopes, jax.tree_util.tree_leaves_with_path(start), strict=True
        ):
            flat = np.asarray(leaves[leaf]).reshape(-1)
            for place in range(len(flat)):
                ends = []
                for sign in (1.0, -1.0):
                    moved = flat.copy()
                    moved[place] += sign * 1e-6
                    changed = [*leaves]
                    changed[leaf] = jnp.asarray(moved.reshape(np.shape(leaves[leaf])))
                    ends.append(float(loss(jax.tree.unflatten(structure, changed))))
                expected = (ends[0] - ends[1]) / 2e-6
                found = float(np.asarray(slope).reshape(-1)[place])
                assert found == pytest.approx(expected, rel=2e-4, abs=1e-5), path
        # The last packed sample may reach over far, so that far moves nothing there.
        assert (float(gradient["far"]) != 0.0) == (name == "dense")
        assert float(gradient["near"]) != 0.0


def test_rays_and_scenes_can_be_mapped_over():
    """vmap over scenes (parameters and grids), each with rays of its own."""
    field = Cloud()
    grids = [full_grid(step=step) for step in (0.1, 0.2)]
    samplers = [OccupancySampler(grid, samples=60) for grid in grids]
    params = [{"peak": jnp.asarray(p), "centre": jnp.zeros(3)} for p in (1.0, 4.0)]
    rays = [rays_of((5,)), rays_of((5,), 3.0)]
    stacked = [
        jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *both)
        for both in (params, rays, samplers)
    ]

    def colour(params, rays, sampler):
        return render_rays(field, params, rays, sampler).colour

    together = jax.jit(jax.vmap(colour))(*stacked)
    for index in range(2):
        alone = colour(params[index], rays[index], samplers[index])
        np.testing.assert_allclose(together[index], alone, atol=1e-5)


def test_a_grid_that_is_traced_cuts_no_ray_short():
    """Of half a cell's steps, which `Occupancy.of_field` makes, as many as with a grid that is known."""
    grid, rays = full_grid(step=0.25), rays_of((3,), near=0.1, far=9.0)
    sampled = [
        sample(grid)
        for sample in (
            lambda grid: OccupancySampler(grid, max_optical_depth=0.0)(Cloud(), None, rays),
            jax.jit(
                lambda grid: OccupancySampler(grid, max_optical_depth=0.0)(Cloud(), None, rays)
            ),
        )
    ]
    assert all(bool(each.complete.all()) for each in sampled)
    np.testing.assert_array_equal(sampled[0].packing.count, sampled[1].packing.count)
    assert int(sampled[0].packing.count.max()) > 2 * 8


def test_extras_given_by_the_caller_take_the_place_of_the_field_s():
    field, rays = Cloud(), rays_of((4,))
    seen = render_rays(
        field, field.init(None), rays, SAMPLERS["occupancy"],
        extras=lambda params, features: params["peak"] * features[..., 0],
    )  # fmt: skip
    plain = render_rays(field, field.init(None), rays, SAMPLERS["occupancy"])
    features = field.density(field.init(None), plain.samples.positions(rays))[1]
    expected = comp.accumulated(plain.samples, plain.weights, 3.0 * features[..., 0])
    np.testing.assert_allclose(seen.extras, expected, rtol=1e-5)


@pytest.mark.parametrize("sampler", ["stratified", "hierarchical", "occupancy"])
def test_keys_of_the_older_kind_draw_the_same(sampler):
    cells = np.ones((4, 4, 4), bool)
    place = {
        "stratified": Stratified(8),
        "hierarchical": Hierarchical((8, 4)),
        "occupancy": OccupancySampler(Occupancy.of(cells, np.full(3, -1.0), 0.5, 0.1)),
    }[sampler]
    rays = Rays.of(jnp.array([0.0, 0.1, -3.0]), jnp.eye(3)[::-1], far=5.0)
    field = Cloud()
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    drawn = [place(field, field.init(None), rays, key) for key in (old, new)]
    np.testing.assert_array_equal(drawn[0].t, drawn[1].t)
    assert (np.asarray(drawn[0].t) != np.asarray(place(field, field.init(None), rays).t)).any()
