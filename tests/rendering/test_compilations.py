"""Nothing is compiled again where only numbers change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf import (
    Camera,
    ComposedField,
    ComposedSampler,
    Hierarchical,
    OccupancySampler,
    VoxelField,
    render_image,
    render_rays,
)
from jaxnerf.cameras import cast_rays
from jaxnerf.fields.voxels import VoxelSettings
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import Similarity

_COMPILED: list[str] = []


def _count(event: str, *_: float, **__: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(event)


@pytest.fixture
def compiled():
    """What has been compiled, once for each program."""
    jax.monitoring.register_event_duration_secs_listener(_count)
    _COMPILED.clear()
    yield _COMPILED
    jax.monitoring.clear_event_listeners()


def scene(seed: int = 0, *, origin: float = -1.0, side: float = 2.0):
    """A field of a ball of voxels, its parameters, and its occupancy."""
    middles = (np.arange(8) + 0.5) / 4.0 - 1.0
    distance = np.add.outer(np.add.outer(middles**2, middles**2), middles**2)
    cells, corner = distance < 0.7, np.full(3, origin, np.float32)
    settings = VoxelSettings(width=8)
    field = VoxelField.on_lattice(cells, corner, side / 8, side / 16, settings)
    occupancy = Occupancy.of(cells, corner, side / 8, side / 16)
    return field, field.init(jax.random.key(seed)), occupancy


def sampler_of(name: str, occupancy: Occupancy):
    if name == "packed":
        return OccupancySampler(occupancy, samples=32, max_steps=64, mean_samples=32.0)
    return Hierarchical((8, 8))


@pytest.mark.parametrize("name", ["packed", "dense"])
def test_one_program_renders_every_size_camera_field_and_placement(compiled, name):
    def picture(eye, size, field, params, occupancy, near=1.0, background=1.0, **how):
        # Sizes of its own for each sampler: what the other test has compiled is there already.
        camera = Camera.look_at(eye, width=size[0] + (name == "dense"), height=size[1])
        sampler = sampler_of(name, occupancy)
        given = {"near": near, "far": near + 5.0, "background": background, "chunk": 128}
        return render_image(field, params, camera, sampler, **given, **how)

    # What makes a scene is not counted: only pictures of it are.
    scenes = [scene(0), scene(1), scene(2, origin=-0.9, side=1.7)]
    first = picture((0.0, -4.0, 1.0), (30, 20), *scenes[0], edge_supersampling=0.05)
    assert first.opacity.max() > 0.05
    assert compiled
    compiled.clear()
    for eye, size, number in (
        ((0.0, -4.0, 1.0), (31, 20), 0),
        ((3.0, -2.0, 1.5), (64, 48), 0),
        ((-2.0, 3.0, 2.0), (17, 90), 1),
        ((2.0, 3.0, -1.0), (40, 40), 2),
        ((0.0, 0.2, 0.1), (9, 9), 2),
    ):
        picture(eye, size, *scenes[number], edge_supersampling=0.05)
    picture((1.0, -4.0, 1.0), (30, 20), *scenes[1], near=0.5, background=(0.1, 0.2, 0.3))
    assert len(compiled) == 0


def test_one_program_renders_every_placement(compiled):
    (field, params, occupancy), (other, others, cells) = scene(0), scene(1, origin=-0.9, side=1.7)
    sampler = ComposedSampler((sampler_of("packed", occupancy), sampler_of("packed", cells)))

    def picture(scale, shift, eye, size):
        at = Similarity(scale, translation=np.array(shift))
        both = ComposedField.of([(field, None), (other, at)])
        camera = Camera.look_at(eye, width=size, height=20)
        return render_image(both, (params, others), camera, sampler, near=1.0, far=7.0, chunk=128)

    first = picture(0.5, (0.3, -1.0, 0.2), (0.0, -4.0, 1.0), 33)
    assert first.extras["parts"].reshape(-1, 2).max(axis=0).min() > 0.03
    assert compiled
    compiled.clear()
    again = picture(0.7, (-0.6, -0.4, 0.0), (0.0, -4.0, 1.0), 33)
    assert np.abs(again.colour - first.colour).max() > 0.01
    picture(1.4, (0.0, 1.0, -0.2), (3.0, -2.0, 1.5), 50)
    assert len(compiled) == 0


def test_one_program_casts_and_renders_rays_of_every_lens_value_and_scene(compiled):
    camera = Camera.look_at((0.0, -4.0, 1.0), width=16, height=16)
    camera = dataclasses.replace(camera, lens="opencv")
    pixels = jnp.asarray(np.random.default_rng(0).uniform(0, 16, (20, 2)), jnp.float32)

    @jax.jit
    def loss(params, field, occupancy, camera, background):
        rays = cast_rays(camera, pixels, 1.0, 7.0)
        sampler = OccupancySampler(occupancy, samples=32)
        return jnp.mean(render_rays(field, params, rays, sampler, None, background).colour)

    step = jax.jit(jax.value_and_grad(loss))
    scenes = [scene(0), scene(1), scene(2, origin=-0.9, side=1.7)]
    grey = [jnp.float32(0.1 * number) for number in range(3)]
    bent = [
        dataclasses.replace(
            camera,
            distortion=np.asarray([0.01 * number, 0, 0, 0, 0, 0], np.float32),
            focal=camera.focal * np.float32(1.0 + 0.1 * number),
        )
        for number in range(3)
    ]
    values = []
    for number, (field, params, occupancy) in enumerate(scenes):
        values.append(step(params, field, occupancy, bent[number], grey[number])[0])
        if number == 0:
            assert compiled
            compiled.clear()
    assert len(compiled) == 0
    assert len({float(value) for value in values}) == 3
