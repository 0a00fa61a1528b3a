"""Points of a reconstruction that are kept out of training, to measure depths by."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from jaxnerf.scenes import HeldOutPoints, Scene
from jaxnerf.scenes.sightings import Sightings, sightings_of

# Every 10th point is held out, if there are at least LEAST points.
EVERY, LEAST = 10, 100


def with_points(
    scene: Scene,
    points: Float[np.ndarray, "P 3"],
    tracks: Mapping[str, Int[np.ndarray, "T 2"]] | None = None,
) -> Scene:
    """Add points to a scene; every 10th of them, from the first on, is held out of training.

    Args:
      scene: a scene without points.
      points: the points in the scene's frame, in the order of their file.
      tracks: for each split, pairs (camera, point) as in `Scene.tracks`; None if it is not known which
        cameras see a point.
    """
    if not len(points):
        return scene
    held = (np.arange(len(points)) % EVERY == 0) & (len(points) >= LEAST)
    # The index of each point among the held-out points, or among the others.
    place = np.where(held, np.cumsum(held), np.cumsum(~held)) - 1

    def of(split: str, which: bool) -> np.ndarray:
        assert tracks is not None
        pairs = tracks[split][held[tracks[split][:, 1]] == which]
        return np.stack([pairs[:, 0], place[pairs[:, 1]]], axis=-1)

    seen = None if tracks is None else {split: of(split, True) for split in tracks}
    return dataclasses.replace(
        scene,
        points=points[~held],
        tracks=None if tracks is None else of("train", False),
        held_out=HeldOutPoints(points[held], seen) if held.any() else None,
    )


def held_out_sightings(scene: Scene, split: str) -> Sightings | None:
    """Observations of held-out points by a split's cameras, in valid pixels; None if there are none."""
    known, views = scene.held_out, scene.splits[split]
    if known is None:
        return None
    tracks = None if known.tracks is None else known.tracks[split]
    seen = sightings_of(known.positions, views.cameras, tracks, others=scene.points)
    if views.masks is not None:
        column, row = np.floor(seen.pixel).astype(int).T
        seen = seen[views.masks[seen.camera, row, column]]
    return seen if len(seen) else None
