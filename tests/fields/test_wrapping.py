"""Fields made from another one say of it all that they do not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf.contraction import SphereContraction
from jaxnerf.fields.composed import PlacedField
from jaxnerf.fields.cropped import CroppedField, Region
from jaxnerf.fields.noisy import NoisyField
from jaxnerf.fields.warped import WarpedField
from jaxnerf.geometry import Placement


class Inner:
    """Asked for its colour once a ray, with labels."""

    shading = "ray"

    def init(self, key):
        return {"label": jnp.array([2.0])}

    def density(self, params, positions):
        return positions[..., 0], positions

    def colour(self, params, features, view_directions):
        return features + view_directions

    def extras(self, params, features):
        return {"label": params["label"][None] * features[..., :1]}


class Bare(Inner):
    shading = "sample"
    extras = None


WRAPPED = {
    "warped": lambda field: WarpedField(field, SphereContraction(jnp.zeros(3), jnp.float32(1.0))),
    "cropped": lambda field: CroppedField(field, (Region.ball((0.0, 0.0, 0.0), 1.0),)),
    "placed": lambda field: PlacedField(field, Placement.of(None)),
    "noisy": lambda field: NoisyField(field, None, 1.0),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_parameters_colours_shading_and_extras_are_those_of_the_inner_field(kind):
    field = WRAPPED[kind](Inner())
    params = field.init(jax.random.key(0))
    assert params["label"].tolist() == [2.0]
    features, ways = jnp.array([[0.1, 0.2, 0.3]]), jnp.array([[0.0, 0.6, 0.8]])
    colour = field.colour(params, features, ways)
    np.testing.assert_allclose(colour, [[0.1, 0.8, 1.1]], rtol=1e-6)
    assert field.shading == "ray"
    np.testing.assert_allclose(field.extras(params, features)["label"], [[0.2]], rtol=1e-6)
    bare = WRAPPED[kind](Bare())
    assert (bare.shading, bare.extras) == ("sample", None)
