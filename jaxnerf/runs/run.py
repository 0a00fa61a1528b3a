"""A trained run, opened from its folder for rendering."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxnerf.cameras import Camera, Rays, cast_rays
from jaxnerf.cameras.paths import focus_point
from jaxnerf.compositing import Compositing
from jaxnerf.config import Config
from jaxnerf.config.adaptation import bounds_of
from jaxnerf.fields import Field
from jaxnerf.rendering import (
    Box,
    GridBlocks,
    Hits,
    PointProperties,
    Rendering,
    render_image,
    render_places,
)
from jaxnerf.runs import probing
from jaxnerf.runs.checkpoints import Checkpoints
from jaxnerf.runs.files import RunError
from jaxnerf.runs.folder import read_config
from jaxnerf.runs.scene import read_scene
from jaxnerf.runs.structure import structure_of
from jaxnerf.sampling import Occupancy, Sampler
from jaxnerf.scenes import Scene, Similarity
from jaxnerf.scenes.backgrounds import colour_of
from jaxnerf.training.calibration import Calibration
from jaxnerf.training.state import TrainState

# Least near of a camera, as a fraction of the scene's near: samples that are even in disparity need a
# near above 0.
_LEAST_OF_NEAR = 1e-2
# Least near of a camera, as a fraction of far, however close to the scene's centre the camera is.
_LEAST_NEAR = 1e-2


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained field and its scene.

    Attributes:
      folder: folder of the run.
      config: configuration of its training.
      scene: the scene, without photographs.
      params: parameters of `field`; `jaxnerf.render_rays` takes both.
      step: number of training steps.
      field: the trained field, or a tuple with one for each level. It is evaluated in the scene's frame,
        in which `sampler` and `rays` are too.
      occupancy: the occupied cells, if the method has an occupancy grid.
      calibration: the learned corrections of training photographs and their cameras, if there are any.
        Images show the colours of the scene without these corrections.
    """

    folder: Path
    config: Config
    scene: Scene
    field: Any
    params: Any
    step: int
    occupancy: Occupancy | None = None
    calibration: Calibration | None = None

    def render(
        self,
        camera: Camera,
        *,
        background: Float[np.ndarray, "_H _W 3"] | tuple[float, float, float] | float | None = None,
        far: Float[np.ndarray, "_H _W"] | None = None,
        normals: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rendering:
        """Render the image of a camera; poses, depths and normals in the frame of the user's files.

        Args:
          camera: a single camera, for instance from `Camera.look_at`, or one for each column of the image
            (`render_image`). A pose in float64 is converted to the scene's frame in float64.
          background: colour behind the scene, one for all pixels or one for each; by default the
            background of training.
          far: the depth t at which the ray of each pixel ends, infinite if it does not: for example that
            of objects rasterised into the background (`render_image`).
          normals: whether to compute normals.
          progress: see `render_image`.

        Returns:
          A `Rendering` of NumPy arrays [height, width, ...].
        """
        camera = self._in_scene(camera)
        near, end = self._bounds(camera)
        if far is not None:
            end = np.minimum(np.asarray(far, np.float64) / self.scene.to_user.scale, end)
        behind = self.background if background is None else background
        rendering = render_image(
            self.field,
            self.params,
            camera,
            self.config.section.sampler(self.occupancy, first=True),
            near=near,
            far=end,
            horizon=self.scene.far,
            background=behind,
            normals=normals,
            compositing=self.config.section.compositing,
            edge_supersampling=self.config.evaluation.edge_supersampling,
            chunk=self.config.evaluation.chunk,
            progress=progress,
        )
        return in_users_frame(rendering, self.scene.to_user)

    def render_places(
        self,
        camera: Camera,
        places: Float[np.ndarray, "R 2"],
        *,
        compositing: Compositing | None = None,
    ) -> Rendering:
        """Render some positions in the image of a camera, on black; depths in the user's unit.

        Args:
          camera: as for `render`.
          places: coordinates (x, y), at least one; see `jaxnerf.cast_rays`.
          compositing: see `jaxnerf.render_rays`; by default that of training.

        Returns:
          A `Rendering` of NumPy arrays with leading shape (R,).
        """
        camera = self._in_scene(camera)
        near, far = self._bounds(camera)
        rendering = render_places(
            self.field,
            self.params,
            camera,
            places,
            self.config.section.sampler(self.occupancy, first=True),
            near=near,
            far=far,
            compositing=compositing or self.config.section.compositing,
            chunk=self.config.evaluation.chunk,
        )
        return in_users_frame(rendering, self.scene.to_user)

    def query(self, points: Any, directions: Any = None, *, length: float = 1.0) -> PointProperties:
        """Density, opacity and colour of the scene at points, in the frame and unit of the user's files.

        Args:
          points: points [..., 3]; in float64 if they are far from the origin.
          directions: viewing directions [..., 3] of the colours, from the camera to the point; by default
            colours are the mean over the six directions along the scene's axes.
          length: length of the segment of which opacity is computed, in the user's unit.

        Returns:
          NumPy arrays [..., ...]; densities in 1/unit.

        Raises:
          ValueError: points have another shape, or a direction has no length.
        """
        return probing.query(self, points, directions, length)

    def grid(self, resolution: int, box: Any = None, *, colours: bool = True) -> GridBlocks:
        """The scene on a regular grid along the user's axes, block by block.

        A grid of 1,024 voxels along each side need not fit into memory: iterate over its blocks, or write
        them to arrays on disk::

          grid = run.grid(1024)
          density = np.memmap("density.f16", np.float16, "w+", shape=grid.shape)
          grid.write(density=density)

        Args:
          resolution: number of cubic voxels along the longest side of the box.
          box: two corners in the user's frame, low and high; by default `bounding_box`.
          colours: whether blocks have colours.

        Raises:
          RunError: no box is given, and the scene is empty.
          ValueError: the box is inside out, or the resolution is not from 2 to 4,096.
        """
        return probing.grid(self, resolution, box, colours)

    def first_hit(self, seen_by: Camera | Rays, pixels: Any = None) -> Hits:
        """The first surface along rays: the points at which the transmittance is a half.

        Args:
          seen_by: a single camera, or rays, in the frame of the user's files.
          pixels: of the camera, coordinates [..., 2]; by default all pixels' centres [height, width].

        Returns:
          NumPy arrays of the pixels' or rays' leading shape, in the user's frame and unit.

        Raises:
          ValueError: pixels are given with rays.
        """
        return probing.first_hit(self, seen_by, pixels)

    def bounding_box(self, *, least_fraction: float = 0.01) -> Box:
        """The bounding box of the scene's content, along the axes of the user's frame.

        The opacity of cells is evaluated: those of the occupancy grid, or of the cube or space in which
        the scene was trained. Cells of little opacity are ignored, and so are small groups of cells that
        are not connected to the rest. In an unbounded scene only the uncontracted ball is included, in a
        forward-facing one only what lies up to its far.

        Args:
          least_fraction: groups of cells are ignored if the sum of their opacities is less than this
            fraction of the largest group's.

        Raises:
          RunError: the scene is empty.
        """
        return probing.bounding_box(self, least_fraction)

    @property
    def sampler(self) -> Sampler:
        """The sampler of images, for use with `jaxnerf.render_rays`.

        The sampler of an occupancy grid has no limits: every ray is rendered to its end, or until the
        occupancy estimates that no light is left (`Rendering.is_complete` is True for such rays).
        """
        return self.config.section.sampler(self.occupancy)

    def rays(self, camera: Camera, pixels: Float[Array, "*batch 2"]) -> Rays:
        """The rays, in the scene's frame, of a camera in the frame of the user's files.

        They have the near and far of `render`. Lengths along them are multiplied by
        `scene.to_user.scale` to get the user's unit.

        Args:
          camera: a single camera.
          pixels: coordinates (x, y); see `jaxnerf.cast_rays`.
        """
        camera = self._in_scene(camera)
        return cast_rays(camera, pixels, *self._bounds(camera))

    def near_and_far(self, camera: Camera) -> tuple[float, float]:
        """near and far of the rays of a camera in the user's frame, t in the scene's unit."""
        return self._bounds(self._in_scene(camera))

    def _in_scene(self, camera: Camera) -> Camera:
        """A camera of the user's frame in the scene's frame."""
        pose = self.scene.to_user.inverse().poses(np.asarray(camera.camera_to_world, np.float64))
        return dataclasses.replace(camera, camera_to_world=pose.astype(np.float32))

    def _bounds(self, camera: Camera) -> tuple[float, float]:
        """near and far of a camera's rays.

        For cameras at the distance of training cameras they are those of training. If a camera is closer
        to the point looked at than all training cameras, near is reduced by the difference. For the
        paper's network in bounded scenes, near and far both change by the difference of the camera's
        distance from the range of the training cameras' distances.
        """
        near, far = bounds_of(self.config, self.scene)
        poses = np.asarray(self.scene.splits["train"].cameras.camera_to_world, np.float64)
        # The mean: the centre of the circle, if each column of the image has a camera of its own.
        position = (
            np.reshape(camera.camera_to_world, (-1, 3, 4)).astype(np.float64)[:, :, 3].mean(0)
        )
        if self.config.scene.space == "forward":
            # All look along -z.
            nearer = max(float(poses[:, 2, 3].min() - position[2]), 0.0)
            return max(near - nearer, _LEAST_OF_NEAR * near), far
        middle = focus_point(poses)
        known = np.linalg.norm(poses[:, :, 3] - middle, axis=-1)
        here = float(np.linalg.norm(position - middle))
        if not self.config.section.has_far or self.config.scene.space == "unbounded":
            nearer = max(float(known.min()) - here, 0.0)
            return max(near - nearer, _LEAST_OF_NEAR * near), far
        moved = here - float(np.clip(here, known.min(), known.max()))
        return max(near + moved, min(near, _LEAST_NEAR * far)), max(far + moved, _LEAST_NEAR * far)

    @property
    def background(self) -> tuple[float, float, float]:
        """The background colour of test views: that of training; white if that was random."""
        return colour_of(self.config.training.background)

    def adjusted(self, cameras: Camera) -> Camera:
        """The training cameras, all of them and in the scene's frame, with refined poses if any."""
        if self.calibration is None:
            return cameras
        return jax.tree.map(np.asarray, self.calibration.cameras(cameras))

    def cameras(self, split: str = "train") -> Camera:
        """A split's cameras in the frame of the user's files; training cameras with refined poses.

        Poses are in float64.

        Raises:
          RunError: the scene has no such split.
        """
        if split not in self.scene.splits:
            known = ", ".join(self.scene.splits)
            raise RunError(f"{self.folder}: the scene has no split {split!r}, only {known}")
        cameras = self.scene.splits[split].cameras
        if split == "train":
            cameras = self.adjusted(cameras)
        return self.scene.to_user.cameras(cameras)


def in_users_frame(rendering: Rendering, frame: Similarity) -> Rendering:
    """A rendering with lengths and normals converted to another frame.

    Args:
      rendering: a rendering of NumPy arrays.
      frame: similarity from the frame of the rendering to that of the user.
    """
    scale, normals = np.float32(frame.scale), rendering.normals
    return dataclasses.replace(
        rendering,
        depth=rendering.depth * scale,
        depth_median=rendering.depth_median * scale,
        distance=rendering.distance * scale,
        normals=None if normals is None else (normals @ frame.rotation.T).astype(np.float32),
    )


def load_run(folder: str | Path, step: int | None = None, *, field: Field | None = None) -> Run:
    """Open a run for rendering.

    Args:
      folder: folder of the run.
      step: step of the checkpoint; the last by default.
      field: the field that was given to `jaxnerf.fit`, if the run was made by it.

    Raises:
      RunError: the folder is not a run, or has no checkpoint or one of another configuration.
    """
    folder = Path(folder)
    config, scene = read_config(folder), read_scene(folder)
    if config.method == "own" and field is None:
        raise RunError(
            f"{folder}: was trained on a field of one's own; give it: load_run(folder, field=...)"
        )
    if config.method != "own" and field is not None:
        raise RunError(f"{folder}: was trained by {config.method}, which has its own field")
    state = Checkpoints(folder).restore(config, structure_of(config, field), step)
    if state is None:
        raise RunError(f"{folder}: no checkpoint yet; resume its training to make one")
    calibration, count = state.calibration, len(scene.splits["train"])
    for learned in jax.tree.leaves(() if calibration is None else calibration.learned):
        if len(learned) != count:
            raise RunError(
                f"{folder}/checkpoints: adjusts {len(learned)} photographs where scene.json has {count}"
            )
    return run_of(folder, config, scene, state)


def run_of(folder: Path, config: Config, scene: Scene, state: TrainState) -> Run:
    """The run of a training state, with NumPy arrays."""
    # Without the optimizer's moments, of which each host has only a part.
    occupancy = getattr(state.sampler, "occupancy", None)
    parts = jax.tree.map(np.asarray, (state.field, state.params, occupancy, state.calibration))
    field, params, occupancy, calibration = parts
    return Run(folder, config, scene, field, params, int(state.step), occupancy, calibration)
