"""Small scenes made by hand, as runs of the fast field, in all the spaces that it knows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from lattice import lattice_vertices

from jaxnerf.cameras import Camera, look_at_pose
from jaxnerf.config import Config, override
from jaxnerf.contraction import NdcSpace, SphereContraction
from jaxnerf.fields.voxels import VoxelField, VoxelParams, VoxelSettings
from jaxnerf.fields.warped import WarpedField
from jaxnerf.runs.run import Run
from jaxnerf.sampling import Occupancy
from jaxnerf.scenes import NdcFrame, Scene, Similarity, Split

KINDS = ("bounded", "unbounded", "forward")
SIDE, FOCAL = 96, 110.0
# Of settings that are not the usual ones: numbers of features and units that fill no vector of four.
_SETTINGS = {
    "bounded": VoxelSettings(features=6, width=10, sh_degree=4, log2_detail=8, detail_finer=3),
    "unbounded": VoxelSettings(features=3, width=8, sh_degree=2, log2_detail=12),
    "forward": VoxelSettings(features=3, width=6, sh_degree=1, shading="sample"),
}
_CELLS = {"bounded": 40, "unbounded": 64, "forward": 48}
# Neither turned, shifted nor scaled by anything round.
_TURN = np.linalg.qr(np.array([[0.3, -0.8, 0.1], [0.9, 0.2, -0.4], [0.2, 0.5, 0.8]]))[0]
_FRAME = Similarity(
    scale=2.7,
    rotation=np.linalg.det(_TURN) * _TURN,
    translation=np.array([4.0, -1.5, 0.6]),
)


def quick_run() -> Run:
    """A run of few cells, one ray a pixel, for tests of what hands do, where drawing takes the time."""
    run = run_of("bounded", cells=16)
    return dataclasses.replace(
        run, config=override(run.config, {"evaluation.edge_supersampling": 0.0})
    )


def run_of(kind: str, folder: Path = Path("run"), cells: int = 0) -> Run:
    """A run of a scene without symmetry: a ball, a box above it at one side, and what is behind them.

    Its grid has so many cells along a side, or as many as suit its kind.
    """
    space = {
        "bounded": lambda: None,
        "unbounded": lambda: SphereContraction(np.float32([0.1, 0.0, -0.1]), np.float32(1.2)),
        "forward": lambda: NdcSpace(
            np.float32([FOCAL, FOCAL]), np.float32([SIDE, SIDE]), np.float32(1.0), np.float32(1.25)
        ),
    }[kind]()
    field, params, occupancy = _filled(kind, space, cells or _CELLS[kind])
    forward = kind == "forward"
    poses = _forward_poses() if forward else _poses_around()
    cameras = Camera.pinhole(poses, FOCAL, SIDE, SIDE)
    names = tuple(f"{number:03d}.png" for number in range(len(poses)))
    settings = override(
        Config(method="voxels"),
        {
            "scene.space": kind,
            "training.background": "#3070a0",
            "voxels.stages.samples_per_voxel": 1,
            "evaluation.edge_supersampling": 0.1 if kind == "bounded" else 0.0,
        },
    )
    scene = Scene(
        name="by hand <b>",
        source=Path("nowhere"),
        format="blender",
        splits={"train": Split(names, cameras), "test": Split(names[:1], cameras[:1])},
        near=1.0 if forward else 0.2,
        far=20.0,
        to_user=_FRAME,
        ndc=NdcFrame((FOCAL, FOCAL), (SIDE, SIDE), 1.0) if forward else None,
        unbounded=kind == "unbounded",
    )
    return Run(folder, settings, scene, field, params, 1, occupancy)


def _poses_around() -> np.ndarray:
    angles = np.linspace(0.3, 5.8, 7)
    eyes = [(2.6 * np.cos(a), 2.6 * np.sin(a), 0.9 + 0.3 * np.sin(3.0 * a)) for a in angles]
    return np.stack([look_at_pose(eye, (0.1, 0.0, -0.1)) for eye in eyes])


def _forward_poses() -> np.ndarray:
    eyes = [(0.3 * x, 0.2 * y, 0.05 * x * y) for x in (-1, 0, 1) for y in (-1, 1)]
    return np.stack([look_at_pose(eye, (0.0, 0.0, -6.0), (0.0, 1.0, 0.0)) for eye in eyes])


def _filled(kind: str, space, count: int) -> tuple:
    """A field, its parameters and its occupancy of so many cells, of the shapes of a kind."""
    if space is None:
        origin, side, cells = np.full(3, -1.0), 2.0, np.ones((count,) * 3, bool)
    else:
        origin, side, cells = space.cells(count)
    cell, outside = side / count, _shapes(kind, space)
    middles = (np.stack(np.meshgrid(*[np.arange(count)] * 3, indexing="ij"), -1) + 0.5) * cell
    cells = cells & (np.abs(outside(middles + origin)) < 2.5 * cell)
    voxels = VoxelField.on_lattice(cells, origin, cell, cell, _SETTINGS[kind], 0.8)
    first = voxels.begin_detail(voxels.init(jax.random.key(3)))
    places = lattice_vertices(voxels.bricks) * cell + origin
    table = np.array(first.table)
    waves = np.arange(1, 1 + voxels.settings.features)
    table[: len(places), 1:] = 1.5 * np.sin(
        places @ np.sin(np.outer([5.0, 3.0, 7.0], waves)) + waves
    )
    table[: len(places), 0] = np.clip(-3.0 * outside(places) / cell, -15.0, 14.0)
    table[:64, 0] = -15.0
    # As large as after training, so that colours depend on the direction.
    network = [dict(layer, kernel=2.0 * np.asarray(layer["kernel"])) for layer in first.network]
    network[-1]["bias"] = np.float32([0.3, -0.2, 0.1])
    detail = first.detail
    if detail is not None:
        detail = 0.5 * np.random.default_rng(5).normal(size=detail.shape).astype(np.float32)
        detail[:, 0] *= 10.0  # what of it reaches into empty space must not be seen
    field = voxels if space is None else WarpedField(voxels, space)
    occupancy = Occupancy.of(cells, origin.astype(np.float32), cell, cell, space)
    return field, VoxelParams(table, network, detail), jax.tree.map(np.asarray, occupancy)


def _shapes(kind: str, space) -> Callable[[np.ndarray], np.ndarray]:
    """How far outside of the scene's surfaces places are, about, in the lattice's unit."""

    def box(places, centre, half):
        return np.max(np.abs(places - np.asarray(centre)) - np.asarray(half), axis=-1)

    def ball(places, centre, radius):
        return np.linalg.norm(places - np.asarray(centre), axis=-1) - radius

    def at(places):
        if kind == "bounded":
            parts = [
                ball(places, (0.1, -0.1, 0.0), 0.5),
                box(places, (0.5, 0.2, 0.6), (0.3, 0.1, 0.2)),
            ]
        elif kind == "unbounded":
            parts = [
                ball(places, (0.1, -0.1, 0.0), 0.4),
                box(places, (0.4, 0.3, 0.4), (0.25, 0.12, 0.2)),
                np.maximum(places[..., 2] + 0.7, ball(places, (0, 0, 0), 1.5)),
                1.8 - np.linalg.norm(places, axis=-1),
            ]
        else:
            parts = [
                ball(places, (0.1, -0.1, 0.5), 0.35),
                box(places, (0.5, 0.4, 0.3), (0.2, 0.15, 0.1)),
                0.9 - places[..., 2],
            ]
        return np.min(parts, axis=0)

    return at
