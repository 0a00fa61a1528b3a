"""Structure from motion with COLMAP: from overlapping photographs to cameras and sparse points.

Schönberger and Frahm, "Structure-from-Motion Revisited", CVPR 2016. Needs the extra `process`.
"""

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.picture_files import by_number

if TYPE_CHECKING:
    import pycolmap

Matching = Literal["auto", "exhaustive", "sequential"]
Cameras = Literal["single", "per_image"]
Lens = Literal["PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"]
Progress = Callable[[str, int, int], None]

# Two photographs do not determine all parameters of a lens; COLMAP may then start with wrong ones and
# has to start again. So the reconstruction uses the simplest lens of the family, and all parameters are
# adjusted at the end. With a field of view of 124 degrees and k1 = -0.2 the result was the same.
_FIRST_LENS = {"PINHOLE": "SIMPLE_PINHOLE", "OPENCV_FISHEYE": "SIMPLE_RADIAL_FISHEYE"}
# Up to this number of unordered photographs all pairs are matched: 11,175 pairs, of which two cores match
# 17 per second at 1,600 pixels.
_MOST_EXHAUSTIVE = 150
# In a sequence each photograph is matched with this number of following ones. For loop closure, for which
# COLMAP itself would download a vocabulary, all pairs of key frames are matched: every fifth photograph,
# at most 60.
_OVERLAP, _KEY_FRAME_STEP, _MOST_KEY_FRAMES = 10, 5, 60
# The principal point is refined if there are at least this many photographs per camera; fewer do not
# determine it.
_LEAST_FOR_CENTRE = 10
_BLOCK = 10
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of structure from motion.

    Attributes:
      matching: "exhaustive" matches all pairs of photographs, "sequential" neighbours by name and pairs
        of key frames; "auto" is sequential for videos and more than 150 photographs.
      cameras: "single" for one camera for all photographs of one size, "per_image" for zooms or
        collections.
      camera_model: COLMAP's name of the lens.
      max_image_size: features are computed in photographs shrunk to this longer side, in pixels; 0 for no
        limit.
      verbose: whether COLMAP writes its log to standard error.
    """

    matching: Matching = "auto"
    cameras: Cameras = "single"
    camera_model: Lens = "OPENCV"
    max_image_size: int = 1600
    verbose: bool = False


def reconstruct(
    images: Path,
    sizes: dict[str, tuple[int, int]],
    work: Path,
    settings: Settings,
    *,
    ordered: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> list["pycolmap.Reconstruction"]:
    """Compute the cameras of photographs.

    Runs on all cores of the CPU. The seed of random choices is fixed.

    Args:
      images: the folder of the photographs, stored upright (the orientation in EXIF is ignored).
      sizes: the (width, height) of each photograph, by name; neighbours in a sequence are those by the
        numbers in their names.
      work: an empty folder for temporary files.
      settings: settings of structure from motion.
      ordered: whether the names are in the order of a video.
      progress: called with the stage, the amount done, and the total (0 if it is not known).

    Returns:
      The reconstructed models, the one with most photographs first; none if no initial pair was found.

    Raises:
      SceneError: pycolmap is missing, or failed.
    """
    import_pycolmap()
    names, database = sorted(sizes, key=by_number), work / "database.db"
    pairs = itertools.combinations(range(len(names)), 2)
    if not is_exhaustive(settings, len(names), ordered):
        pairs = sequential_pairs(len(names))
    with log(settings.verbose):
        with _errors("features"):
            _extract(images, sizes, database, settings, progress)
        with _errors("matches"):
            _match(names, pairs, database, work, progress)
        with _errors("cameras"):
            models = _map(images, database, work, progress)
            for model in models[:1]:
                _refine(model, settings)
    return models


def is_exhaustive(settings: Settings, count: int, ordered: bool) -> bool:
    """Whether all pairs of so many photographs, or frames of a video (`ordered`), are matched."""
    if settings.matching == "auto":
        return not ordered and count <= _MOST_EXHAUSTIVE
    return settings.matching == "exhaustive"


def sequential_pairs(count: int) -> list[tuple[int, int]]:
    """The pairs of photographs in a sequence that are matched: neighbours, and pairs of key frames.

    >>> len(sequential_pairs(100))
    1098
    """
    step = max(_KEY_FRAME_STEP, math.ceil(count / _MOST_KEY_FRAMES))
    near = {
        (one, other)
        for one in range(count)
        for other in range(one + 1, min(one + 1 + _OVERLAP, count))
    }
    return sorted(near | set(itertools.combinations(range(0, count, step), 2)))


def import_pycolmap(extra: str = "process") -> Any:
    """The module pycolmap.

    Args:
      extra: name of jaxnerf's extra that installs it, for the message.

    Raises:
      SceneError: it is not installed.
    """
    try:
        import pycolmap
    except ImportError:
        raise SceneError(f"pycolmap is missing: pip install 'jaxnerf[{extra}]'") from None
    except RuntimeError as error:
        raise SceneError(f"pycolmap cannot be loaded: {error}") from None
    return pycolmap


def _extract(
    images: Path,
    sizes: dict[str, tuple[int, int]],
    database: Path,
    settings: Settings,
    progress: Progress,
) -> None:
    import pycolmap

    options, done = pycolmap.FeatureExtractionOptions(), 0
    # Of 0 or less COLMAP would make its own limit.
    options.max_image_size = settings.max_image_size or max(map(max, sizes.values()))
    options.num_threads = _cores()
    shared, own = pycolmap.CameraMode.SINGLE, pycolmap.CameraMode.PER_IMAGE
    progress("features", 0, len(sizes))
    for size in sorted(set(sizes.values())):  # COLMAP does not share a camera among several
        reading = pycolmap.ImageReaderOptions()
        reading.camera_model = _FIRST_LENS.get(settings.camera_model, "SIMPLE_RADIAL")
        if reading.camera_model == "SIMPLE_RADIAL_FISHEYE":
            # Without initial parameters COLMAP matches no photographs of fisheye lenses.
            reading.camera_params = f"{0.5 * max(size)},{0.5 * size[0]},{0.5 * size[1]},0"
        for names in _parts([name for name in sorted(sizes) if sizes[name] == size], 4 * _cores()):
            pycolmap.extract_features(
                database,
                images,
                image_names=names,
                camera_mode=shared if settings.cameras == "single" else own,
                reader_options=reading,
                extraction_options=options,
                device=pycolmap.Device.cpu,
            )
            if settings.cameras == "single":
                with pycolmap.Database.open(database) as opened:
                    known = opened.read_all_cameras()
                # Of photographs that COLMAP cannot read it stores no camera.
                if known and (known[-1].width, known[-1].height) == size:
                    reading.existing_camera_id = known[-1].camera_id
            done += len(names)
            progress("features", done, len(sizes))


def _match(
    names: Sequence[str],
    pairs: Iterable[tuple[int, int]],
    database: Path,
    work: Path,
    progress: Progress,
) -> None:
    import pycolmap

    # In blocks with few photographs each, whose features COLMAP can keep in memory.
    pairs = sorted(pairs, key=lambda pair: (pair[0] // _BLOCK, pair[1] // _BLOCK, pair))
    options, verification = pycolmap.FeatureMatchingOptions(), pycolmap.TwoViewGeometryOptions()
    listed = pycolmap.ImportedPairingOptions()
    options.num_threads = _cores()
    verification.ransac.random_seed = _SEED
    listed.match_list_path, done = work / "pairs.txt", 0
    progress("matches", 0, len(pairs))
    for part in _parts(pairs, max(_BLOCK**2, 20 * _cores())):
        lines = (f"{names[one]} {names[other]}\n" for one, other in part)
        (work / "pairs.txt").write_text("".join(lines), encoding="utf-8")
        pycolmap.match_image_pairs(
            database,
            matching_options=options,
            pairing_options=listed,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
        done += len(part)
        progress("matches", done, len(pairs))


def _map(
    images: Path, database: Path, work: Path, progress: Progress
) -> list["pycolmap.Reconstruction"]:
    import pycolmap

    registered = 0

    def begin() -> None:  # once for each model
        nonlocal registered
        registered = 2

    def tell() -> None:
        nonlocal registered
        registered += 1
        progress("cameras", registered, 0)

    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = _cores()
    options.min_model_size = 3
    options.random_seed = options.mapper.random_seed = _SEED
    options.triangulation.random_seed = _SEED
    progress("cameras", 0, 0)
    models = pycolmap.incremental_mapping(
        database,
        images,
        work,
        options=options,
        initial_image_pair_callback=begin,
        next_image_callback=tell,
    )
    return sorted(models.values(), key=lambda model: -model.num_reg_images())


def _refine(model: "pycolmap.Reconstruction", settings: Settings) -> None:
    """Replace the cameras' lenses by the one of the settings, and run bundle adjustment once more."""
    import pycolmap

    config, options = pycolmap.BundleAdjustmentConfig(), pycolmap.BundleAdjustmentOptions()
    for image in model.reg_image_ids():
        config.add_image(image)
    for camera in model.cameras.values():
        lens = pycolmap.Camera.create_from_model_name(
            camera.camera_id, settings.camera_model, 1.0, camera.width, camera.height
        )
        params, radial = lens.params, camera.params[camera.extra_params_idxs()]
        params[lens.focal_length_idxs()] = camera.mean_focal_length()
        params[lens.principal_point_idxs()] = camera.params[camera.principal_point_idxs()]
        params[lens.extra_params_idxs()[: len(radial)]] = radial
        camera.model, camera.params = lens.model, params
    enough = model.num_reg_images() >= _LEAST_FOR_CENTRE * model.num_cameras()
    options.refine_principal_point = enough
    options.print_summary = False
    options.ceres.solver_options.num_threads = _cores()
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # Instead of pycolmap.bundle_adjustment, which switches logging on.
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    model.update_point_3d_errors()


@contextlib.contextmanager
def _errors(stage: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pycolmap raises various exceptions
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise SceneError(f"{stage}: COLMAP failed: {reason}; --verbose shows its log") from None


@contextlib.contextmanager
def log(verbose: bool) -> Iterator[None]:
    """COLMAP's log on standard error or nowhere; the previous settings are restored afterwards."""
    import pycolmap

    log = pycolmap.logging
    before = log.minloglevel, log.logtostderr
    log.minloglevel, log.logtostderr = 0 if verbose else 3, True  # otherwise it also writes files
    try:
        yield
    finally:
        log.minloglevel, log.logtostderr = before


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Batches of items for pycolmap, since it does not report progress within a call."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
