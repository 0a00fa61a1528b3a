"""Volumes of a ball that is a formula: densities at the places that the files' affine maps name."""

import dataclasses
import sys

import nibabel
import nrrd
import numpy as np
import pytest
from ball_run import FRAME, ball_run, centre, density_of

from jaxnerf.exports.volume import BLOCK, Settings, export
from jaxnerf.runs.files import RunError

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


def test_nifti_refuses_a_place_that_float32_cannot_say(tmp_path):
    run = ball_run(count=6)
    to_user = dataclasses.replace(run.scene.to_user, translation=np.array([5321987.37, 0.0, 0.0]))
    far = dataclasses.replace(run, scene=dataclasses.replace(run.scene, to_user=to_user))
    with pytest.raises(RunError, match=r"voxels; export to .nrrd or .npz"):
        export(far, tmp_path / "ball.nii", Settings(resolution=RESOLUTION))
    assert not list(tmp_path.iterdir())


def test_nrrd_maps_voxels_to_the_users_frame(tmp_path):
    export(ball_run(count=6), tmp_path / "ball.nrrd", Settings(resolution=RESOLUTION))
    density, header = nrrd.read(str(tmp_path / "ball.nrrd"))
    colour, other = nrrd.read(str(tmp_path / "ball.colour.nrrd"))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = header["space directions"].T, header["space origin"]
    assert_is_the_ball(density, np.moveaxis(colour, 0, -1), affine)
    np.testing.assert_array_equal(other["space directions"][1:], header["space directions"])
    assert np.isnan(other["space directions"][0]).all()


class StandIn:
    """As much of OpenVDB's module as is called, by its documentation: voxels by their index."""

    class GridClass:
        FOG_VOLUME = "fog volume"

    class FloatGrid:
        def __init__(self, background):
            self.background, self.voxels, self.transform = background, {}, None

        def copyFromArray(self, array, ijk):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            for index in np.ndindex(*array.shape[:3]):
                self.voxels[tuple(a + b for a, b in zip(ijk, index, strict=True))] = array[index]

    Vec3SGrid = FloatGrid

    @staticmethod
    def createLinearTransform(matrix):
        assert np.shape(matrix) == (4, 4)
        return np.array(matrix)

    @classmethod
    def write(cls, path, grids):
        cls.grids = {grid.name: grid for grid in grids}
        open(path, "w").close()


def test_a_vdb_has_the_blocks_that_hold_something_in_the_users_frame(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvdb", StandIn)
    for name in ("ball.npz", "ball.vdb"):
        export(ball_run(count=6), tmp_path / name, Settings(resolution=RESOLUTION))
    assert (tmp_path / "ball.vdb").exists()
    density, colour = (StandIn.grids[name] for name in ("density", "color"))
    assert density.gridClass == colour.gridClass == "fog volume"
    with np.load(tmp_path / "ball.npz") as dense:
        shape = dense["density"].shape
        index = np.array(list(density.voxels))
        assert (index < shape).all()  # the last block reaches beyond the grid
        # Rows, with the shift in the last one.
        world = np.concatenate([index, np.ones((len(index), 1))], axis=1) @ density.transform
        np.testing.assert_allclose(world[:, :3], places_of(shape, dense["affine"])[tuple(index.T)])
        np.testing.assert_array_equal(density.transform, colour.transform)
        left = dense["density"].copy()
        for place, value in density.voxels.items():
            assert value == left[place]
            left[place] = 0.0
        assert left.max() * dense["affine"][0, 0] < 2e-3
        shown = dense["colour"][20, 20, 20] / 255.0
        expected = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
        np.testing.assert_allclose(colour.voxels[20, 20, 20], expected, rtol=1e-6)


def test_too_many_voxels_at_once_are_refused_before_memory_is_taken(tmp_path):
    with pytest.raises(ValueError, match=r"resolution: .* too many at once; try --occupied"):
        export(ball_run(count=6), tmp_path / "ball.npz", Settings(resolution=4096))
    with pytest.raises(ValueError, match=r"occupied: only an \.npz"):
        export(ball_run(count=6), tmp_path / "ball.nrrd", Settings(occupied=True))
