"""`jaxnerf eval`: measure a run on held-out photographs."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jaxnerf import evaluation
from jaxnerf.cameras import Camera
from jaxnerf.cli import common
from jaxnerf.config.adaptation import load_for
from jaxnerf.runs.files import disk_errors, write_json
from jaxnerf.runs.folder import check_same_scene
from jaxnerf.runs.metrics import read_metrics
from jaxnerf.runs.run import load_run
from jaxnerf.scenes import Scene, describe
from jaxnerf.scenes.held_out import LEAST as LEAST_POINTS
from jaxnerf.scenes.held_out import held_out_sightings
from jaxnerf.scenes.sector import SECTOR

_HELP = """
usage: jaxnerf eval RUN [--data DIR] [--split NAME] [--every N] [--allow_outside_paths]

Renders the test views of RUN's scene, and writes RUN/results.json (PSNR, SSIM and, with the extra
`lpips`, LPIPS; for each image and in the mean, with the protocol they were measured under; and errors of
depths at points that were kept out of training, where the scene has points) and the pictures
RUN/test_preds/000.png and so on. Files of another split have its name, as RUN/results_val.json. The flags
of training need not be repeated.
"""

# The entries of the sector's results that are copied into results.json.
_BESIDE = {"psnr", "psnr_8bit", "psnr_colour_corrected", "ssim", "lpips", "depth", "protocol"}
_SECTOR = "a tenth of all, from one side, kept out of training (scene.hold_out_sector)"
_OWN_COLOURS = (
    "the scene's own; those of training photographs were fitted to it "
    "(voxels.calibration.affine_colour)"
)
_REFINED = "as refined in training (voxels.calibration.refine_poses)"
_AS_GIVEN = "as given; those of training photographs were refined (voxels.calibration.refine_poses)"


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "data", None, "folder of the scene; by default that of training", flag_values=values
    )
    flags.DEFINE_string(
        "split",
        None,
        "which photographs: test, val, train or sector; by default test, and with it the sector of a run "
        "that was trained with --scene.hold_out_sector",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "every", 1, "measure views 0, N, 2 N, ...", flag_values=values, lower_bound=1
    )
    common.define_scene_flags(values)
    return values


def main(arguments: Sequence[str]) -> None:
    """Measure; see the help.

    Raises:
      SceneError, RunError: something is wrong; in one line.
    """
    values = _flags()
    (folder,) = common.parse(values, arguments, _HELP, ["RUN"])
    common.prepare_cpu()
    common.use_compilation_cache()

    run = load_run(folder)
    data = Path(values.data) if values.data else run.scene.source
    splits = (values.split,) if values.split else held_out_splits(run) or ("test",)
    scene = load_for(run.config, data, splits, values.allow_outside_paths)
    print(describe(scene), flush=True)
    evaluate_splits(run, scene, splits, values.every)


def held_out_splits(run) -> tuple[str, ...]:
    """The splits that a run is measured on by default."""
    return tuple(split for split in ("test", SECTOR) if split in run.scene.splits)


def evaluate_splits(run, scene: Scene, splits: Sequence[str], every: int = 1) -> dict[str, Any]:
    """Measure a run on several splits.

    The sector's means are also written into the results.json of the test views.

    Args:
      run, scene, every: as for `evaluate`.
      splits: names of the splits.

    Returns:
      The results of each split.

    Raises:
      SceneError: the photographs are not those of the run's scene.
    """
    fraction = 1.0 / max(len(splits), 1)
    found = {split: evaluate(run, scene, split, every, fraction) for split in splits}
    if {"test", SECTOR} <= found.keys():
        found["test"][SECTOR] = {key: found[SECTOR][key] for key in found[SECTOR] if key in _BESIDE}
        with disk_errors(run.folder):
            write_json(run.folder / "results.json", found["test"])
    return found


def evaluate(
    run, scene: Scene, split: str = "test", every: int = 1, fraction: float = 1.0
) -> dict[str, Any]:
    """Measure a run on a split, write results.json and the images, and print the means.

    Args:
      run: a run from `load_run`.
      scene: the scene with the photographs of the split.
      split: name of the split.
      every: as the flag; 0 for as many views as fit into the time that training took.
      fraction: fraction of that time that is used for this split.

    Raises:
      SceneError: the photographs are not those of the run's scene.
    """
    photographs = scene.splits[split]
    check_same_scene(run.folder, run.scene, scene)
    cameras = photographs.cameras
    if split == "train":
        cameras = run.adjusted(cameras)
    cameras = scene.to_user.cameras(cameras)
    calibration = run.calibration
    with_colours = calibration is not None and calibration.colours is not None
    line = common.LiveLine()

    def progress(done: int, total: int, row: dict[str, Any]) -> None:
        line.show(
            f"{split} view {done}/{total}  {_metrics(row)}",
            last=done == total,
        )

    rows = [row for row in read_metrics(run.folder) if row["step"] <= run.step]
    with disk_errors(run.folder):
        results = evaluation.evaluate_split(
            lambda index: run.render(cameras[index]).colour,
            photographs,
            run.folder / f"{split}_preds",
            name=split,
            background=run.background,
            every=every,
            seconds=fraction * rows[-1]["seconds"] if rows else float("inf"),
            colour_corrected=with_colours,
            lpips=evaluation.lpips_metric(),
            progress=progress,
        )
        if with_colours:
            results["protocol"]["colours"] = _OWN_COLOURS
        if calibration is not None and calibration.motions is not None:
            results["protocol"]["poses"] = _REFINED if split == "train" else _AS_GIVEN
        if scene.notes:
            results["protocol"]["notes"] = list(scene.notes)
        if split == SECTOR:
            results["protocol"]["cameras"] = _SECTOR
        results |= {
            "depth": _depth_errors(run, scene, split, results["protocol"]["every"], cameras),
            "step": run.step,
            "train_seconds": rows[-1]["seconds"] if rows else None,
            "train_rays": _rays_drawn(rows, run.step, run.config.training.rays_per_batch),
        }
        name = "results.json" if split == "test" else f"results_{split}.json"
        write_json(run.folder / name, results)
    _tell(run.folder, scene, split, results)
    return results


def _tell(folder: Path, scene: Scene, split: str, results: dict[str, Any]) -> None:
    """Print the means of results.json, and the protocol of the measurement."""
    protocol = results["protocol"]
    up_to = "up to " if "resolutions" in protocol else ""
    some = ""
    if "chosen" in protocol:
        some = (
            f"one in {protocol['every']}, what fits into the training's time; "
            f"jaxnerf eval {shlex.quote(str(folder))} measures all; "
        )
    print(
        f"{split}: {_metrics(results)} ({protocol['images']} of {protocol['of']} views, {some}"
        f"{up_to}{protocol['resolution'][0]} x {protocol['resolution'][1]}, on {protocol['background']})"
    )
    depth = results["depth"]
    if "not_measured" not in depth:
        half = depth["half"]
        print(
            f"depth at {depth['protocol']['sightings']:,} sightings of points kept out of training: "
            f"median error {half['median']:.1%}, {half['within_5_percent']:.0%} within 5%"
        )
    elif scene.unbounded or scene.ndc is not None:
        print(f"depth not measured: {depth['not_measured']}")
    if "not installed" in str(protocol["ssim"]):
        print(f"SSIM {protocol['ssim']}")


def _depth_errors(run, scene: Scene, split: str, every: int, cameras: Camera) -> dict[str, Any]:
    """The errors of depths at the held-out points, in the views that were measured."""
    if scene.held_out is None:
        return {"not_measured": f"the scene's files have fewer than {LEAST_POINTS} points"}
    seen = held_out_sightings(scene, split)
    if seen is not None:
        seen = seen[seen.camera % every == 0]
    if not seen:
        return {"not_measured": f"no camera of {split} sees a point that is held out"}
    unit = scene.to_user.scale

    def render(index: int, places: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        soft, hard = (
            run.render_places(cameras[index], places, compositing=how)
            for how in ("volume", "surface")
        )
        return {
            "mean": (soft.depth / unit, soft.opacity),
            "half": (soft.depth_median / unit, soft.opacity),
            "surface": (hard.depth / unit, hard.opacity),
        }

    return evaluation.depth_errors(render, seen)


def _rays_drawn(rows: list[dict[str, Any]], steps: int, full_batch: int) -> int:
    """Number of rays in the batches of all steps, whose sizes differ for the fast field.

    The size in a report is used for all steps since the previous report; full batches without a report.

    >>> _rays_drawn([{"step": 1, "rays": 64.0}, {"step": 11, "rays": 32.0}], steps=12, full_batch=64)
    448
    """
    ends = [0, *(row["step"] for row in rows)]
    drawn = sum(n * row.get("rays", full_batch) for n, row in zip(np.diff(ends), rows, strict=True))
    return int(drawn + (steps - ends[-1]) * full_batch)


def _metrics(values: dict[str, Any]) -> str:
    shown = [f"PSNR {values['psnr']:.2f} dB"]
    shown += [f"{name.upper()} {values[name]:.3f}" for name in ("ssim", "lpips") if name in values]
    return ", ".join(shown)
