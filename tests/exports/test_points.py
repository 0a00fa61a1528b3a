"""Points of a ball that is a formula: on its surface, with its normals and colours, few enough."""

import numpy as np
import pytest
import trimesh
from ball import RADIUS
from ball_run import FRAME, ball_run, centre

from jaxnerf.exports.cameras import write_colmap
from jaxnerf.exports.points import Settings, export
from jaxnerf.runs.files import RunError
from jaxnerf.scenes.colmap_files import read_model

SIZE = RADIUS * FRAME.scale


def test_points_lie_on_the_ball_with_its_normals_and_colours(tmp_path):
    export(ball_run(), tmp_path / "ball.ply", Settings(spacing=0.1))
    cloud = trimesh.load(tmp_path / "ball.ply", process=False)
    offset = np.asarray(cloud.vertices) - centre()
    away = np.linalg.norm(offset, axis=-1)
    # Half of the light of a ray that passes by is stopped up to 0.0074 above the radius of 0.5, where
    # 350 exp(-500 h) sqrt(2 pi 0.5 / 500) is ln 2; a step of samples is 0.004.
    np.testing.assert_allclose(away, SIZE, rtol=0.025)
    assert np.median(np.abs(away / SIZE - 1.0)) < 0.008
    outward = offset / away[:, None]
    data = cloud.metadata["_ply_raw"]["vertex"]["data"]
    normals = np.stack([data[name].reshape(-1) for name in ("nx", "ny", "nz")], axis=-1)
    assert ((outward * normals).sum(axis=-1) > 0.98).all()
    expected = 0.5 + 0.35 * outward @ FRAME.rotation
    colours = np.stack([data[name].reshape(-1) for name in ("red", "green", "blue")], axis=-1)
    assert np.abs(colours / 255.0 - expected).max() < 0.15
    cubes = np.unique(np.floor(np.asarray(cloud.vertices) / 0.1), axis=0)
    assert 0.3 * len(cloud.vertices) < len(cubes)
    # A sphere meets some 1.5 times as many cubes as it has area in faces of them.
    assert 0.9 < len(cloud.vertices) * 0.01 / (4 * np.pi * SIZE**2) < 1.8


@pytest.mark.parametrize("name", ["points3D.txt", "points3D.bin"])
def test_colmap_reads_the_points(name, tmp_path):
    """In the place of those of a model of the same cameras."""
    run = ball_run(count=6, pixels=24)
    write_colmap(run.scene, tmp_path / "model")
    made = export(run, tmp_path / "model" / name, Settings(spacing=0.3))
    found = read_model(tmp_path / "model").points
    np.testing.assert_allclose(found.positions, made.positions + made.origin, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.colours, made.colours)
    if name.endswith(".txt"):
        pycolmap = pytest.importorskip("pycolmap")
        model = pycolmap.Reconstruction(str(tmp_path / "model"))
        places = np.array([point.xyz for _, point in sorted(model.points3D.items())])
        np.testing.assert_allclose(places, found.positions)


def test_a_scene_without_a_surface_has_no_points(tmp_path):
    with pytest.raises(RunError, match="no surface"):
        export(ball_run(count=6, pixels=24, empty=True), tmp_path / "ball.ply", Settings())
    assert list(tmp_path.iterdir()) == []


def test_a_spacing_too_small_is_refused_before_views_are_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "jaxnerf.exports.points.render_views", lambda *_, **__: pytest.fail("rendered")
    )
    with pytest.raises(ValueError, match=r"spacing: 1e-09 is too small for a box"):
        export(ball_run(count=6, pixels=24), tmp_path / "ball.ply", Settings(spacing=1e-9))
