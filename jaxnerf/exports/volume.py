"""Density and colour of a run on a regular grid in the user's frame: NPZ, NIfTI, NRRD or OpenVDB.

OpenVDB's Python module, `openvdb` or, before version 11, `pyopenvdb`, has no wheels on PyPI. It is part
of conda-forge's package openvdb, of Debian's and Ubuntu's python3-openvdb, and of Blender's own Python.
If it cannot be imported, the export of a .vdb raises an error that names these packages.
"""

import dataclasses
import gzip
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxnerf.errors import in_range
from jaxnerf.exports.colours import linear_levels
from jaxnerf.exports.files import Report, package, whole_file
from jaxnerf.exports.grids import box_of
from jaxnerf.rendering.boxes import Grid, check_resolution
from jaxnerf.rendering.chunks import CHUNK
from jaxnerf.runs.files import RunError
from jaxnerf.runs.probing import Probe
from jaxnerf.runs.run import Run

SUFFIXES = (".npz", ".nii", ".nii.gz", ".nrrd", ".vdb")
BLOCK = 16
_AT_ONCE = CHUNK // BLOCK**3
# Largest number of voxels of a dense grid: 1.9 GB with their colours.
_MOST_VOXELS = 1 << 28
# Voxels whose opacity is at most this have no colour.
_LEAST_OPACITY = 1e-3
# Number of training cameras, in whose directions the colours of a voxel are averaged.
_DIRECTIONS = 6


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a volume is made.

    Attributes:
      resolution: voxels along the longest side of the box.
      box: x0,y0,z0,x1,y1,z1 in the frame and unit of your files; by default a box around the scene.
      occupied: whether an NPZ has only the blocks of 16 x 16 x 16 voxels that are not empty.
    """

    resolution: int = 256
    box: tuple[float, ...] = ()
    occupied: bool = False

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        in_range(self, occupied=(0, 1))


@dataclasses.dataclass(frozen=True)
class Volume:
    """Density and colour in blocks of voxels; the last block along an axis may extend beyond the grid.

    Attributes:
      grid: the voxel grid.
      blocks: the index of the first voxel of each block that is not empty.
      density: density at the centres of voxels, in 1/length of the user's unit.
      colour: 8-bit sRGB, the mean over the directions of some training cameras; 0 in empty voxels.
    """

    grid: Grid
    blocks: np.ndarray
    density: Float[np.ndarray, "N 16 16 16"]
    colour: UInt8[np.ndarray, "N 16 16 16 3"]

    def dense(self) -> tuple[Float[np.ndarray, "X Y Z"], UInt8[np.ndarray, "X Y Z 3"]]:
        """Density and colour of all voxels."""
        shape = self.grid.shape
        density, colour = np.zeros(shape, np.float32), np.zeros((*shape, 3), np.uint8)
        for first, some, shades in zip(self.blocks, self.density, self.colour, strict=True):
            where = tuple(slice(begin, begin + BLOCK) for begin in first)
            x, y, z = density[where].shape
            density[where], colour[where] = some[:x, :y, :z], shades[:x, :y, :z]
        return density, colour


def export(run: Run, out: Path, settings: Settings, report: Report = Report()) -> Volume:
    """Write a run's density and colour on a regular grid along the axes of the user's frame.

    An NPZ has `density` (in 1/unit), `colour` (8-bit sRGB) and `affine`, which maps the index of a voxel
    to its centre in the user's frame. With `Settings.occupied`, `density` and `colour` are of blocks of
    16 cubed, whose first voxels are `blocks`, in a grid of `shape`. NIfTI and NRRD have the density in
    the given file, and the colour in a second file: NAME.colour.nii, as RGB24, or NAME.colour.nrrd. A
    VDB has the sparse grids `density` and `color`, in linear RGB, with the names that Blender expects.

    Args:
      run: a run from `jaxnerf.load_run`.
      out: the file, whose suffix is one of `SUFFIXES`.
      settings: settings of the export.
      report: receives messages and progress.

    Raises:
      RunError: a package is missing, the box is empty, or the file cannot be written.
      ValueError: a setting is wrong; the message begins with its name.
    """
    write = _writer(out, settings)
    grid = Grid.of(box_of(run, settings.box), settings.resolution)
    sparse = settings.occupied or out.suffix == ".vdb"
    if not sparse and np.prod(grid.shape, dtype=np.int64) > _MOST_VOXELS:
        shape = " x ".join(map(str, grid.shape))
        raise ValueError(
            f"resolution: {shape} voxels are too many at once; try --occupied or fewer"
        )
    volume = volume_of(run, grid, report)
    if not len(volume.blocks):
        raise RunError(f"{run.folder}: nothing is in the box that is looked at")
    write(volume, out)
    occupied = len(volume.blocks) / np.prod([-(-side // BLOCK) for side in grid.shape])
    report.say(
        f"{' x '.join(map(str, grid.shape))} voxels of {grid.voxel:.4g} in the unit of your files, "
        f"{occupied:.1%} of them in blocks that are not empty"
    )
    return volume


def volume_of(run: Run, grid: Grid, report: Report = Report()) -> Volume:
    """Density and colour of a run's field at the centres of voxels, in blocks that are not empty."""
    probe = Probe(run, grid.origin)
    eyes = np.asarray(run.cameras().camera_to_world, np.float64)[:, :, 3] - grid.origin
    eyes = eyes[np.linspace(0, len(eyes) - 1, min(_DIRECTIONS, len(eyes))).astype(int)]
    first, densities, colours = [], [], []
    for blocks, places in _blocks(grid, report):
        density = probe.density(places.reshape(-1, 3)).reshape(places.shape[:-1])
        shown = 1.0 - np.exp(-density * grid.voxel) > _LEAST_OPACITY
        some = shown.any(axis=(1, 2, 3))
        if not some.any():
            continue
        colour = np.zeros(places.shape, np.uint8)
        mean = np.mean([_seen_by(probe, places[shown], eye) for eye in eyes], axis=0)
        colour[shown] = np.rint(np.clip(mean, 0.0, 1.0) * 255.0)
        first.append(blocks[some])
        densities.append(density[some])
        colours.append(colour[some])
    cube = (BLOCK,) * 3
    return Volume(
        grid,
        np.concatenate([np.zeros((0, 3), np.int32), *first]),
        np.concatenate([np.zeros((0, *cube), np.float32), *densities]),
        np.concatenate([np.zeros((0, *cube, 3), np.uint8), *colours]),
    )


def _seen_by(probe: Probe, places: np.ndarray, eye: np.ndarray) -> np.ndarray:
    along = places - eye.astype(np.float32)
    return probe.colour(places, along / np.linalg.norm(along, axis=-1, keepdims=True))


def _blocks(grid: Grid, report: Report) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of blocks: their first voxels, and the centres of all voxels relative to the origin."""
    middles = np.argwhere(np.ones((BLOCK,) * 3, bool)).reshape(*(BLOCK,) * 3, 3) + 0.5
    first = BLOCK * np.argwhere(np.ones([-(-side // BLOCK) for side in grid.shape], bool))
    for begin in range(0, len(first), _AT_ONCE):
        some = first[begin : begin + _AT_ONCE].astype(np.int32)
        places = (some[:, None, None, None] + middles) * grid.voxel
        yield some, places.astype(np.float32)
        report.progress("block", begin + len(some), len(first))


def _writer(out: Path, settings: Settings) -> Callable[[Volume, Path], None]:
    """The function that writes the format of a file name.

    Raises:
      RunError: its package is missing.
      ValueError: `occupied` is set and the format has no blocks.
    """
    if out.name.endswith(".npz"):
        return _write_blocks if settings.occupied else _write_npz
    if settings.occupied:
        raise ValueError(f"occupied: only an .npz has blocks, not {out.name}")
    if out.name.endswith(".vdb"):
        vdb = _openvdb(out)
        return lambda volume, path: write_vdb(vdb, volume, path)
    if out.name.endswith(".nrrd"):
        nrrd = package("nrrd", "pynrrd")
        return lambda volume, path: _write_nrrd(nrrd, volume, path)
    nibabel = package("nibabel")
    return lambda volume, path: _write_nifti(nibabel, volume, path)


def _openvdb(out: Path) -> Any:
    """OpenVDB's module, under either of its names.

    Raises:
      RunError: it is not installed.
    """
    for name in ("openvdb", "pyopenvdb"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    others = ", ".join(SUFFIXES[:-1])
    raise RunError(
        f"{out}: needs OpenVDB's Python module, which pip does not have: conda install -c conda-forge "
        f"openvdb, or apt install python3-openvdb; without it: {others}"
    )


def write_vdb(vdb: Any, volume: Volume, out: Path) -> None:
    """Write a volume as the grids `density` and `color` of an OpenVDB file.

    Args:
      vdb: OpenVDB's module.
      volume: the volume; voxels without density are not active.
      out: the file.

    Raises:
      RunError: the file cannot be written.
    """
    linear = linear_levels()
    density, colour = vdb.FloatGrid(0.0), vdb.Vec3SGrid((0.0, 0.0, 0.0))
    for first, some, shades in zip(volume.blocks, volume.density, volume.colour, strict=True):
        ends = np.minimum(np.array(volume.grid.shape) - first, BLOCK)
        inside = tuple(slice(0, int(end)) for end in ends)
        place = tuple(int(index) for index in first)
        density.copyFromArray(np.ascontiguousarray(some[inside], np.float32), ijk=place)
        shown = np.ascontiguousarray(linear[shades[inside]], np.float32)
        colour.copyFromArray(shown, ijk=place)
    for name, grid in (("density", density), ("color", colour)):
        grid.name, grid.gridClass = name, vdb.GridClass.FOG_VOLUME
        # OpenVDB multiplies row vectors by matrices from the right.
        grid.transform = vdb.createLinearTransform(volume.grid.affine.T.tolist())
    with whole_file(out) as partial:
        vdb.write(str(partial), [density, colour])


def _write_npz(volume: Volume, out: Path) -> None:
    density, colour = volume.dense()
    with whole_file(out) as partial:
        np.savez_compressed(partial, density=density, colour=colour, affine=volume.grid.affine)


def _write_blocks(volume: Volume, out: Path) -> None:
    arrays = {name: getattr(volume, name) for name in ("blocks", "density", "colour")}
    shape = np.array(volume.grid.shape)
    with whole_file(out) as partial:
        np.savez_compressed(partial, **arrays, affine=volume.grid.affine, shape=shape)


def _beside(out: Path) -> Path:
    """The name of the file with the colours: lego.colour.nii.gz of lego.nii.gz."""
    end = next(suffix for suffix in sorted(SUFFIXES, key=len)[::-1] if out.name.endswith(suffix))
    return out.with_name(f"{out.name.removesuffix(end)}.colour{end}")


def _write_nifti(nibabel: Any, volume: Volume, out: Path) -> None:
    # NIfTI has float32 alone for where a volume is; NRRD and npz have float64.
    rounding = np.abs(volume.grid.affine - volume.grid.affine.astype(np.float32)).max()
    if rounding > 0.1 * volume.grid.voxel:
        raise RunError(
            f"{out}: NIfTI would round the origin by {rounding:.2g} of your unit, which is "
            f"{rounding / volume.grid.voxel:.2g} voxels; export to .nrrd or .npz"
        )
    density, colour = volume.dense()
    rgb = np.ascontiguousarray(colour).view([(name, "u1") for name in "RGB"])[..., 0]
    with whole_file(_beside(out)) as other, whole_file(out) as partial:
        for values, path in ((density, partial), (rgb, other)):
            contents = nibabel.Nifti1Image(values, volume.grid.affine).to_bytes()
            path.write_bytes(gzip.compress(contents) if out.suffix == ".gz" else contents)


def _write_nrrd(nrrd: Any, volume: Volume, out: Path) -> None:
    density, colour = volume.dense()
    affine = volume.grid.affine
    space = {"space dimension": 3, "space origin": affine[:3, 3], "encoding": "gzip"}
    axes, nothing = affine[:3, :3].T, np.full((1, 3), np.nan)
    with whole_file(_beside(out)) as other, whole_file(out) as partial:
        nrrd.write(
            str(partial), density, {**space, "space directions": axes, "kinds": ["domain"] * 3}
        )
        kinds = {"kinds": ["RGB-color", *["domain"] * 3]}
        directions = np.concatenate([nothing, axes])
        first = np.moveaxis(colour, -1, 0)
        nrrd.write(str(other), first, {**space, "space directions": directions, **kinds})
