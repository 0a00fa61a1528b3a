"""The bundled scene, whose depth, normals and object numbers come from Mitsuba, against our cameras."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxnerf import cast_rays, load_scene, project
from jaxnerf.cameras import pixel_centres
from jaxnerf.scenes import demo_path

VIEWS = range(0, 40, 5)


@pytest.fixture(scope="module")
def scene():
    return load_scene(images=("test",))


@pytest.fixture(scope="module")
def description():
    return json.loads((demo_path() / "scene.json").read_text())


def truth(view: int, kind: str) -> np.ndarray:
    return np.asarray(Image.open(demo_path() / "test" / f"r_{view}_{kind}.png"))


def points(scene, description, view: int) -> np.ndarray:
    """Where Mitsuba's rays hit, along our rays."""
    rays = cast_rays(scene.splits["test"].cameras[view], jnp.asarray(pixel_centres(256, 256)))
    depth = truth(view, "depth").astype(np.float32) * np.float32(description["depth_unit"])
    return np.asarray(rays.origins + jnp.asarray(depth)[..., None] * rays.directions)


def test_it_has_the_promised_views_and_is_small(scene):
    assert {name: len(split) for name, split in scene.splits.items()} == {
        "train": 100,
        "val": 20,
        "test": 40,
    }
    assert scene.splits["test"].images.shape == (40, 256, 256, 4)
    assert sum(file.stat().st_size for file in demo_path().rglob("*.*")) < 12_000_000


@pytest.mark.parametrize("view", VIEWS)
def test_our_rays_hit_the_surfaces_at_the_depth_that_mitsuba_says(scene, description, view):
    hit, objects = points(scene, description, view), truth(view, "object")
    checked = 0
    for number, thing in description["objects"].items():
        on = hit[objects == int(number)]
        if "sphere" in thing and len(on):
            radius = np.linalg.norm(on - np.array(thing["sphere"]["center"]), axis=-1)
            np.testing.assert_allclose(radius, thing["sphere"]["radius"], atol=1e-4)
            checked += len(on)
        if "plane" in thing and len(on):
            height = on @ np.array(thing["plane"]["normal"])
            np.testing.assert_allclose(height, thing["plane"]["offset"], atol=1e-4)
            checked += len(on)
    assert checked > 2000


def test_points_seen_in_one_view_are_found_in_another(scene, description):
    """A matte ball's points, projected into the next views, land on the same ball."""
    number = next(
        int(number) for number, thing in description["objects"].items() if thing["name"] == "orange"
    )
    found = 0
    for view in VIEWS:
        on = points(scene, description, view)[truth(view, "object") == number]
        if not len(on):
            continue
        pixels, depth = project(scene.splits["test"].cameras[view + 1], jnp.asarray(on))
        columns, rows = np.floor(np.asarray(pixels)).astype(int).T
        other = truth(view + 1, "depth")[rows, columns] * description["depth_unit"]
        visible = np.abs(other - np.asarray(depth)) < 0.01
        same = truth(view + 1, "object")[rows, columns] == number
        assert (~same[visible]).sum() <= 0.05 * visible.sum()
        found += visible.sum()
    assert found > 300


def test_normals_and_near_and_far(scene, description):
    assert scene.near < scene.far
    for view in VIEWS:
        objects, depth = truth(view, "object"), truth(view, "depth") * description["depth_unit"]
        assert scene.near < depth[objects > 0].min()
        assert depth.max() < scene.far
        normals = truth(view, "normal")[objects == 1] / 127.5 - 1.0
        np.testing.assert_allclose(normals, np.broadcast_to([0, 0, 1], normals.shape), atol=0.01)


def test_alpha_is_the_silhouette(scene):
    for view in VIEWS:
        alpha, objects = scene.splits["test"].images[view][..., 3], truth(view, "object")
        assert ((alpha > 127) == (objects > 0)).mean() > 0.995
