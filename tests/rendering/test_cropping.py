"""Fields cropped, and what was rasterised laid into them; and what of compositions is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from composition_factory import (
    BALLS,
    BLUE,
    CAMERA,
    RAYS,
    RED,
    TURNED,
    Blob,
    ball_spans,
    grid_around,
    psnr,
    render,
)  # fmt: skip

from jaxnerf import (
    ComposedField,
    ComposedSampler,
    CroppedField,
    Placement,
    Region,
    Stratified,
    render_image,
    render_rays,
)
from jaxnerf.sampling import Occupancy, OccupancySampler
from jaxnerf.sampling.cropping import cropped_occupancy
from jaxnerf.sampling.occupancy import encode
from jaxnerf.scenes import Similarity


@pytest.mark.slow
def test_a_depth_buffer_and_its_picture_stand_in_a_field_as_the_object_does():
    """The blue ball, opaque and before and behind the red cloud, as a field and as a buffer."""
    solid = dataclasses.replace(BLUE, density_inside=3000.0)
    at = np.array([0.4, -0.2, 0.2])
    field = ComposedField.of([(RED, None), (solid, Similarity(0.7, translation=at))])
    spans = ball_spans(RAYS, at, 0.7)
    hit = spans[:, 0] < 1e8
    depth = np.where(hit, spans[:, 0], np.inf).reshape(20, 20).astype(np.float32)
    picture = np.where(hit[:, None], BLUE.rgb, 1.0).reshape(20, 20, 3)
    seen = render_image(
        RED, (), CAMERA, grid_around(2.2, 0.002), near=0.5, far=depth, background=picture
    )
    sampler = ComposedSampler((grid_around(2.2, 0.002), grid_around(2.2, 0.002)))
    truth = render_image(field, ((), ()), CAMERA, sampler, near=0.5)
    thick = ~hit | (spans[:, 1] - spans[:, 0] > 0.05)
    difference = (np.asarray(seen.colour) - truth.colour).reshape(-1, 3)[thick]
    assert thick.mean() > 0.97
    assert -10.0 * np.log10((difference**2).mean()) > 50.0
    # The red cloud shows before it, and not behind.
    assert seen.opacity[depth < 1e8].max() > 0.05
    middle = seen.depth[~np.isfinite(depth) & (seen.opacity == 0.0)]
    assert len(middle) == 0 or np.isinf(middle).all()
    with pytest.raises(ValueError, match="far has the shape"):
        render_image(RED, (), CAMERA, far=depth[:4], background=picture)
    with pytest.raises(ValueError, match="background has the shape"):
        render_image(RED, (), CAMERA, background=picture[:4])


TILTED = np.eye(4)
TILTED[:3, :3] = TURNED.rotation @ np.diag([0.3, 0.6, 2.0])
TILTED[:3, 3] = [0.1, -0.3, 0.0]
CROPS = {
    "box": (Region.box((-0.3, -2.0, -2.0), (2.0, 2.0, 2.0)), "inside"),
    "ball cut away": (Region.ball((0.3, -1.0, 0.3), 0.8), "outside"),
    "turned": (
        Region.from_matrix(TILTED),
        "outside",
    ),
}


@pytest.mark.parametrize("name", CROPS)
def test_a_crop_keeps_what_a_formula_keeps_and_its_occupancy_ends_no_ray_too_early(name):
    region, keep = CROPS[name]
    blob = Blob(300.0)
    field = CroppedField(blob, (region,), keep)

    @jax.tree_util.register_static
    @dataclasses.dataclass(frozen=True)
    class ByHand(Blob):
        def density(self, params, positions):
            density, features = super().density(params, positions)
            p = positions
            if name == "box":
                kept = p[..., 0] >= -0.3
            elif name == "ball cut away":
                kept = jnp.sum((p - jnp.array([0.3, -1.0, 0.3])) ** 2, axis=-1) > 0.64
            else:
                turned = (p - jnp.array([0.1, -0.3, 0.0])) @ jnp.asarray(
                    TURNED.rotation, jnp.float32
                )
                kept = (jnp.abs(turned) / jnp.array([0.3, 0.6, 2.0])).max(axis=-1) > 1.0
            return jnp.where(kept, density, 0.0), features

    cells, side = 48, 4.0
    middles = (np.indices((cells,) * 3).transpose(1, 2, 3, 0) + 0.5) * (side / cells) - 2.0
    density = 300.0 * np.exp(-2.0 * (middles**2).sum(axis=-1))
    code = encode(jnp.asarray(density > 0.01), jnp.asarray(density * side / cells, jnp.float32))
    whole = Occupancy(code, jnp.full(3, -2.0), jnp.float32(side / cells), jnp.float32(0.01))
    sampler = OccupancySampler(cropped_occupancy(whole, field)).limited()
    seen = render(field, jnp.float32(300.0), RAYS, sampler)
    with jax.numpy_rank_promotion("allow"):
        truth = render(ByHand(300.0), jnp.float32(300.0), RAYS, Stratified(2000))
    assert psnr(seen.colour, truth.colour) > 38.0
    assert psnr(seen.opacity, truth.opacity) > 45.0
    # As if nothing had been cut away, rays would end before what is left.
    blind = render(field, jnp.float32(300.0), RAYS, OccupancySampler(whole).limited())
    if name != "box":
        assert not np.asarray(blind.is_complete).all()
    assert np.asarray(seen.is_complete).all()
    full = np.asarray(sampler.occupancy.cells >= 128)
    assert full.sum() < np.asarray(whole.cells >= 128).sum()


BAD = {
    "no parts": (lambda: ComposedField(()), "no parts"),
    "singular": (lambda: Placement.of(np.diag([1.0, 1.0, 0.0, 1.0])), "singular"),
    "flat": (
        lambda: Placement.of(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])),
        "singular",
    ),
    "scale 0": (lambda: Placement.of(Similarity(0.0)), "scale is 0"),
    "mirror": (lambda: Placement.of(np.diag([1.0, 1.0, -1.0, 1.0])), "mirrors"),
    "sheared": (lambda: Placement.of(np.diag([1.0, 2.0, 1.0, 1.0])), "no similarity"),
    "not finite": (lambda: Placement.of(np.full((4, 4), np.nan)), "not finite"),
    "shape": (lambda: Placement.of(np.eye(3)), "shape"),
    "projective": (lambda: Placement.of(np.ones((4, 4))), "last row"),
    "inside out": (lambda: Region.box((0, 0, 0), (1, -1, 1)), "is not below"),
    "no radius": (lambda: Region.ball((0, 0, 0), 0.0), "radius"),
    "flat region": (lambda: Region.from_matrix(np.diag([1.0, 0.0, 1.0, 1.0])), "singular"),
    "no regions": (lambda: CroppedField(RED, ()), "none; name one"),
    "keep": (lambda: CroppedField(RED, (Region.ball((0, 0, 0), 1.0),), "all"), "keep"),
    "extras": (
        lambda: render_rays(
            BALLS, ((), ()), RAYS, Stratified(8), extras=lambda params, features: features
        ),
        "extras: those of a composed field are the opacities of its parts",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_line(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message) as found:
        make()
    assert "\n" not in str(found.value)


def test_a_composed_sampler_wants_a_composed_field():
    for field, params in ((RED, ()), (ComposedField((RED,)), ((),))):
        with pytest.raises(TypeError, match="want a ComposedField of as many parts"):
            render_rays(field, params, RAYS, ComposedSampler((Stratified(8), Stratified(9))))
