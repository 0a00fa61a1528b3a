"""Composition of several runs' scenes, each cropped and placed by a similarity of the users' frames."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from jaxnerf.cameras import Camera
from jaxnerf.fields.composed import ComposedField, PlacedField
from jaxnerf.fields.cropped import CroppedField, Region
from jaxnerf.geometry import Placement, matrix_of, parts_of
from jaxnerf.rendering import Rendering, render_image
from jaxnerf.runs.files import RunError
from jaxnerf.runs.run import Run, in_users_frame
from jaxnerf.sampling import ComposedSampler, ProposedBy
from jaxnerf.sampling.cropping import cropped_occupancy
from jaxnerf.scenes import Similarity


@dataclasses.dataclass(frozen=True)
class Part:
    """A run as a part of a composition.

    Attributes:
      run: the run.
      placement: from the frame of the run's files to that of the composition: a matrix of 4 x 4, or
        another argument of `jaxnerf.Placement.of`; None for the identity.
      crop: regions in the frame of the run's files; none for the whole scene.
      keep: which part of the scene is kept: "inside" of any region, or "outside" of all.
    """

    run: Run
    placement: Any = None
    crop: tuple[Region, ...] = ()
    keep: Literal["inside", "outside"] = "inside"


@dataclasses.dataclass(frozen=True)
class ComposedRun:
    """Several runs in one frame, that of the composition, which its user defines by the placements.

    Attributes:
      parts: the parts of the composition.
      field, params: arguments of `jaxnerf.render_rays`, with `sampler_for`, in a working frame.
      samplers: the sampler of each part, in the frame of the part's scene.
      frame: similarity from the working frame, that of the first run's scene, to the composition's.
      background: colour behind all parts; that of the first run.
    """

    parts: tuple[Part, ...]
    field: ComposedField
    params: tuple[Any, ...]
    samplers: tuple[Any, ...]
    frame: Similarity
    background: tuple[float, float, float]

    def render(
        self,
        camera: Camera,
        *,
        background: Float[np.ndarray, "_H _W 3"] | tuple[float, float, float] | float | None = None,
        far: Float[np.ndarray, "_H _W"] | None = None,
        normals: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rendering:
        """Render the image of a camera in the composition's frame; see `jaxnerf.Run.render`.

        `extras["parts"]` of the result is each part's fraction of the opacity [height, width, P].
        """
        sampler, camera = self.sampler_for(camera), self.in_working_frame(camera)
        ends = np.inf if far is None else np.asarray(far, np.float64) / self.frame.scale
        first = self.parts[0].run
        rendering = render_image(
            self.field,
            self.params,
            camera,
            sampler,
            far=ends,
            horizon=first.scene.far,
            background=self.background if background is None else background,
            normals=normals,
            compositing=first.config.section.compositing,
            edge_supersampling=first.config.evaluation.edge_supersampling,
            chunk=first.config.evaluation.chunk,
            progress=progress,
        )
        return in_users_frame(rendering, self.frame)

    def placed(self, number: int, placement: Any) -> "ComposedRun":
        """The composition with another placement of a part; rendering is not compiled again.

        Args:
          number: index of the part.
          placement: transformation from the frame of its files to the composition's, as in `Part`.
        """
        part = dataclasses.replace(self.parts[number], placement=placement)
        parts = (*self.parts[:number], part, *self.parts[number + 1 :])
        placement = _in_working_frame(part, self.frame)
        field = dataclasses.replace(self.field.fields[number], placement=placement)
        fields = (*self.field.fields[:number], field, *self.field.fields[number + 1 :])
        return dataclasses.replace(self, parts=parts, field=ComposedField(fields))

    def in_working_frame(self, camera: Camera) -> Camera:
        """A camera of the composition's frame in that of `field`."""
        return self.frame.inverse().cameras(camera)

    def sampler_for(self, camera: Camera) -> ComposedSampler:
        """The sampler for the rays of a camera of the composition's frame.

        For each part, near and far of the rays are those of the part's own run for the same camera.
        """
        bounds = []
        for part, field in zip(self.parts, self.field.fields, strict=True):
            rotation, scale, shift = parts_of(part.placement)
            own = Similarity(scale, rotation, shift).inverse().cameras(camera)
            bounds.append(np.multiply(part.run.near_and_far(own), float(field.placement.scale)))
        near, far = np.asarray(bounds, np.float32).T
        return ComposedSampler(self.samplers, near, far)


def compose(parts: Sequence[Part | tuple[Any, ...] | Run]) -> ComposedRun:
    """Combine several runs to one scene, with correct occlusion between them.

    Args:
      parts: each a `Part`; or (run, placement); or a run, without a placement. At most one scene that is
        unbounded or forward-facing may be without a crop: two would fill the same space.

    Example::

      table, fox = jaxnerf.load_run("runs/demo"), jaxnerf.load_run("runs/fox")
      head = Part(fox, on_table, crop=(Region.ball((0.1, 0.2, 0.0), 0.8),))
      picture = compose([table, head]).render(camera)

    Raises:
      RunError: the runs cannot be composed: none is given, two are unbounded and not cropped, or two have
        different compositing modes.
      ValueError: a placement is not a similarity, or a crop is not valid.
    """
    known = tuple(_part(given) for given in parts)
    if not known:
        raise RunError("compose: no parts; name one run at least")
    unbounded = [
        p.run.folder for p in known if p.run.config.scene.space != "bounded" and not p.crop
    ]
    if len(unbounded) > 1:
        raise RunError(
            f"compose: {unbounded[0]} and {unbounded[1]} are both unbounded and would fill the same "
            "space; crop one of them"
        )
    for part in known[1:]:
        how, other = known[0].run.config.section.compositing, part.run.config.section.compositing
        if how != other:
            raise RunError(
                f"compose: {known[0].run.folder} is composited as {how!r} and {part.run.folder} as "
                f"{other!r}, which have no picture in common"
            )
    first = known[0]
    # The frame of the first scene, in which single precision is enough also for survey coordinates.
    rotation, scale, shift = parts_of(
        matrix_of(first.placement) @ matrix_of(first.run.scene.to_user)
    )
    frame = Similarity(scale, rotation, shift)
    fields, params, samplers = zip(*(_made(part, frame) for part in known), strict=True)
    field = ComposedField(fields)
    return ComposedRun(known, field, params, samplers, frame, first.run.background)


def _part(given: Any) -> Part:
    if isinstance(given, Part):
        return given
    return Part(given) if isinstance(given, Run) else Part(*given)


def _in_working_frame(part: Part, frame: Similarity) -> Placement:
    to_work = np.linalg.inv(matrix_of(frame))
    return Placement.of(to_work @ matrix_of(part.placement) @ matrix_of(part.run.scene.to_user))


def _made(part: Part, frame: Similarity) -> tuple[PlacedField, Any, Any]:
    """A part's field in the working frame, its parameters, and its sampler in the frame of its scene."""
    run, field, params = part.run, part.run.field, part.run.params
    occupancy, section = run.occupancy, run.config.section
    regions = tuple(region.placed(run.scene.to_user.inverse()) for region in part.crop)

    def cropped(inner: Any) -> Any:
        return CroppedField(inner, regions, part.keep) if regions else inner

    if regions and occupancy is not None:
        occupancy = cropped_occupancy(occupancy, cropped(field))
    sampler: Any = section.sampler(occupancy, first=True)
    if isinstance(field, tuple):
        levels = tuple(cropped(inner) for inner in field)
        sampler = ProposedBy(sampler, levels, tuple(params))
        field, params = field[-1], params[-1]
    return PlacedField(cropped(field), _in_working_frame(part, frame)), params, sampler
