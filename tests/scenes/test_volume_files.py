"""Volumes that nibabel, pynrrd and NumPy wrote: values, places, and files that are none."""

import gzip
import io
import tracemalloc
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.volume_files import is_volume, read_volume, without_suffix

AFFINE = np.array(
    [[0.9, 0.2, 0.0, -3.0], [-0.3, 0.5, 0.1, 2.0], [0.0, 0.1, 2.0, 0.5], [0.0, 0.0, 0.0, 1.0]]
)


def values(kind: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (3, 5, 4)).astype(kind)


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["uint8", "int16", "float32", ">i2"])
def test_nifti_in_its_own_dtype_and_place(tmp_path, end, kind):
    path = tmp_path / f"head{end}"
    nibabel.Nifti1Image(values(kind), AFFINE).to_filename(path)
    found = read_volume(path)
    np.testing.assert_array_equal(found.values, values())
    assert found.values.dtype.newbyteorder("=") == np.dtype(kind).newbyteorder("=")
    np.testing.assert_allclose(found.to_world, AFFINE, atol=1e-6)
    assert "right, anterior, superior" in found.notes[-1]


def test_nifti_of_scaled_values_and_of_one_moment(tmp_path):
    image = nibabel.Nifti1Image(values()[..., None], AFFINE)
    image.header.set_slope_inter(0.5, -7.0)
    image.to_filename(tmp_path / "scaled.nii")
    found = read_volume(tmp_path / "scaled.nii")
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, 0.5 * values() - 7.0)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_with_directions(tmp_path, encoding):
    header = {
        "space dimension": 3, "space origin": AFFINE[:3, 3], "space directions": AFFINE[:3, :3].T,
        "kinds": ["domain"] * 3, "encoding": encoding,
    }  # fmt: skip
    nrrd.write(str(tmp_path / "head.nrrd"), values(), header)
    found = read_volume(tmp_path / "head.nrrd")
    np.testing.assert_array_equal(found.values, values())
    assert found.values.dtype == np.int16
    np.testing.assert_allclose(found.to_world, AFFINE)


def test_nrrd_of_a_patient_is_turned_to_the_axes_of_nifti(tmp_path):
    header = {
        "space": "left-posterior-superior", "space origin": AFFINE[:3, 3],
        "space directions": AFFINE[:3, :3].T,
    }  # fmt: skip
    nrrd.write(str(tmp_path / "head.nrrd"), values(), header)
    found = read_volume(tmp_path / "head.nrrd")
    np.testing.assert_allclose(found.to_world[:3], AFFINE[:3] * np.array([[-1.0], [-1.0], [1.0]]))
    assert "shown as right, anterior, superior" in found.notes[0]


def test_nrrd_with_spacings_alone(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), values(), {"spacings": [0.5, 1.0, 3.0]})
    np.testing.assert_allclose(read_volume(tmp_path / "a.nrrd").to_world, np.diag([0.5, 1, 3, 1]))
    nrrd.write(str(tmp_path / "b.nrrd"), values())
    found = read_volume(tmp_path / "b.nrrd")
    np.testing.assert_array_equal(found.to_world, np.eye(4))
    assert "side of 1" in found.notes[0]


def test_numpy_files(tmp_path):
    np.save(tmp_path / "a.npy", values())
    np.testing.assert_array_equal(read_volume(tmp_path / "a.npy").values, values())
    colours = np.random.default_rng(1).integers(0, 256, (3, 5, 4, 3), np.uint8)
    density = values("float32")
    np.savez_compressed(tmp_path / "b.npz", density=density, colour=colours, affine=AFFINE)
    found = read_volume(tmp_path / "b.npz")
    np.testing.assert_array_equal(found.values, density)
    np.testing.assert_array_equal(found.colours, colours)
    np.testing.assert_allclose(found.to_world, AFFINE)
    np.savez(tmp_path / "c.npz", anything=np.asfortranarray(values()))
    np.testing.assert_array_equal(read_volume(tmp_path / "c.npz").values, values())


def test_names_of_volumes():
    assert is_volume("a/HEAD.NII.GZ")
    assert not is_volume("runs/lego")
    assert without_suffix("a/head.nii.gz") == "a/head"
    assert without_suffix("a.nrrd/run") == "a.nrrd/run"


def _header_of(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """The beginning of a .npy that claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def _bad(folder: Path) -> dict[str, str]:
    """Files that are no volumes, and what is said of each after its name."""
    nibabel.Nifti1Image(np.ones((4, 5), np.float32), AFFINE).to_filename(folder / "flat.nii")
    nibabel.Nifti1Image(np.ones((4, 5, 2, 3), np.float32), AFFINE).to_filename(folder / "time.nii")
    (folder / "text.nii").write_text("no image")
    (folder / "text.nii.gz").write_bytes(gzip.compress(b"no image"))
    (folder / "text.nrrd").write_text("no image")
    (folder / "text.npz").write_text("no image")
    (folder / "large.npy").write_bytes(_header_of((1024, 1024, 2048)))
    (folder / "short.npy").write_bytes(_header_of((3, 3, 3)) + bytes(8))
    np.save(folder / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.save(folder / "complex.npy", np.ones((2, 2, 2), complex))
    np.savez(folder / "names.npz", a=np.ones((2, 2, 2)), b=np.ones((2, 2, 2)))
    nrrd.write(str(folder / "short.nrrd"), values(), {"encoding": "raw"})
    (folder / "short.nrrd").write_bytes((folder / "short.nrrd").read_bytes()[:-7])
    nrrd.write(str(folder / "apart.nhdr"), values(), {"encoding": "raw"})
    (folder / "apart.nhdr").rename(folder / "apart.nrrd")
    nrrd.write(str(folder / "slow.nrrd"), values(), {"encoding": "bzip2"})
    return {
        "flat.nii": "must have 3 dimensions, got 2: 4 x 5",
        "time.nii": "must have 3 dimensions, got 4: 4 x 5 x 2 x 3",
        "text.nii": "cannot be read",
        "text.nii.gz": "cannot be read",
        "text.nrrd": "cannot be read",
        "text.npz": "cannot be read: File is not a zip file",
        "large.npy": "1024 x 1024 x 2048 of float32 would need 8.6 GB",
        "short.npy": "8 bytes are not 27 numbers of float32",
        "objects.npy": "holds Python objects",
        "complex.npy": "must be of real numbers, got complex128",
        "names.npz": "has no array called density, values, volume",
        "short.nrrd": "113 bytes of values where 120 should be",
        "apart.nrrd": "'data file' is not read",
        "slow.nrrd": "encoding must be raw or gzip, got 'bzip2'",
        "missing.nii": "no such file",
        "head.dcm": "a volume's name ends in one of .nii",
    }


def test_what_is_no_volume_is_refused_in_one_line(tmp_path):
    for name, message in _bad(tmp_path).items():
        with pytest.raises(SceneError) as caught:
            read_volume(tmp_path / name)
        said = str(caught.value)
        assert said.startswith(f"{tmp_path / name}: {message}"), said
        assert "\n" not in said


def test_no_more_is_unpacked_than_a_header_says(tmp_path):
    path = tmp_path / "bomb.nrrd"
    nrrd.write(str(path), np.zeros((2, 2, 2), np.uint8), {"encoding": "gzip"})
    head = path.read_bytes().split(b"\n\n")[0]
    path.write_bytes(head + b"\n\n" + gzip.compress(bytes(50_000_000)))
    tracemalloc.start()
    assert read_volume(path).values.shape == (2, 2, 2)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
