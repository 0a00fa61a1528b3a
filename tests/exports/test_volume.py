"""Volumes of a ball that is a formula: densities at the places that the files' affine maps name."""

import nibabel
import nrrd
import numpy as np
import pytest
from ball_run import FRAME, ball_run, centre, density_of

from jaxnerf.exports.volume import BLOCK, Settings, export

RESOLUTION = 40


def places_of(shape, affine) -> np.ndarray:
    """The user's coordinates of every voxel's middle."""
    index = np.indices(shape).transpose(1, 2, 3, 0)
    return index @ affine[:3, :3].T + affine[:3, 3]


def assert_is_the_ball(density, colour, affine):
    places = places_of(density.shape, affine)
    expected = density_of(places)
    # Single precision of places across a surface as thin as this.
    np.testing.assert_allclose(density, expected, rtol=2e-3, atol=1e-2)
    assert expected.max() > 90.0
    outward = places - centre()
    outward = outward / np.linalg.norm(outward, axis=-1, keepdims=True) @ FRAME.rotation
    inside = expected > 20.0
    assert np.abs(colour[inside] / 255.0 - (0.5 + 0.35 * outward[inside])).max() < 0.11
    assert (colour[expected < 1e-6] == 0).all()


def test_an_npz_has_density_colour_and_where_voxels_are(tmp_path):
    export(ball_run(count=6), tmp_path / "ball.npz", Settings(resolution=RESOLUTION))
    with np.load(tmp_path / "ball.npz") as found:
        assert max(found["density"].shape) == RESOLUTION
        assert_is_the_ball(found["density"], found["colour"], found["affine"])


def test_blocks_are_those_of_the_dense_volume_that_hold_something(tmp_path):
    for name, occupied in (("dense.npz", False), ("blocks.npz", True)):
        export(
            ball_run(count=6), tmp_path / name, Settings(resolution=RESOLUTION, occupied=occupied)
        )
    with np.load(tmp_path / "dense.npz") as dense, np.load(tmp_path / "blocks.npz") as blocks:
        assert tuple(blocks["shape"]) == dense["density"].shape
        np.testing.assert_array_equal(blocks["affine"], dense["affine"])
        left = dense["density"].copy()
        for first, density, colour in zip(
            blocks["blocks"], blocks["density"], blocks["colour"], strict=True
        ):
            where = tuple(slice(begin, begin + BLOCK) for begin in first)
            x, y, z = left[where].shape
            np.testing.assert_array_equal(density[:x, :y, :z], left[where])
            np.testing.assert_array_equal(colour[:x, :y, :z], dense["colour"][where])
            left[where] = 0.0
        assert left.max() * dense["affine"][0, 0] < 2e-3


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_nifti_maps_voxels_to_the_users_frame(end, tmp_path):
    export(ball_run(count=6), tmp_path / f"ball{end}", Settings(resolution=RESOLUTION))
    density = nibabel.load(tmp_path / f"ball{end}")
    colour = nibabel.load(tmp_path / f"ball.colour{end}")
    np.testing.assert_array_equal(colour.affine, density.affine)
    rgb = np.asarray(colour.dataobj)
    rgb = np.stack([rgb[name] for name in "RGB"], axis=-1)
    assert_is_the_ball(np.asarray(density.dataobj), rgb, density.affine)


def test_nrrd_maps_voxels_to_the_users_frame(tmp_path):
    export(ball_run(count=6), tmp_path / "ball.nrrd", Settings(resolution=RESOLUTION))
    density, header = nrrd.read(str(tmp_path / "ball.nrrd"))
    colour, other = nrrd.read(str(tmp_path / "ball.colour.nrrd"))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = header["space directions"].T, header["space origin"]
    assert_is_the_ball(density, np.moveaxis(colour, 0, -1), affine)
    np.testing.assert_array_equal(other["space directions"][1:], header["space directions"])
    assert np.isnan(other["space directions"][0]).all()


def test_too_many_voxels_at_once_are_refused_before_memory_is_taken(tmp_path):
    with pytest.raises(ValueError, match=r"resolution: .* too many at once; try --occupied"):
        export(ball_run(count=6), tmp_path / "ball.npz", Settings(resolution=4096))
    with pytest.raises(ValueError, match=r"occupied: only an \.npz"):
        export(ball_run(count=6), tmp_path / "ball.nrrd", Settings(occupied=True))
