"""Photographs and poses disturbed by a known amount, and how much of it was found again."""

import dataclasses

import numpy as np

from jaxnerf.cameras.paths import focus_point
from jaxnerf.scenes import Similarity, Split


def disturb_colours(split: Split, amount: float, seed: int = 0) -> tuple[Split, np.ndarray]:
    """Each photograph with colours of its own, A c + b; and [A | b] [N, 3, 4].

    A has gains of 1 + amount * normal on its diagonal and a tenth of that elsewhere, b a fifth of it.
    Their means are the identity: what is common to all photographs is the scene's colour.
    """
    random = np.random.default_rng(seed)
    spread = np.full((3, 4), 0.1) + 0.9 * np.eye(3, 4)
    spread[:, 3] = 0.2
    off = amount * spread * random.normal(size=(len(split), 3, 4))
    affine = np.eye(3, 4) + off - off.mean(axis=0)
    images = np.array(split.images)
    for image, (*matrix,) in zip(images, affine, strict=True):
        matrix = np.asarray(matrix)
        colour = image[..., :3] / 255.0 @ matrix[:, :3].T + matrix[:, 3]
        image[..., :3] = np.rint(np.clip(colour, 0.0, 1.0) * 255.0)
    return dataclasses.replace(split, images=images), affine


def disturb_poses(split: Split, degrees: float, share: float, seed: int = 0) -> Split:
    """Each camera turned about an axis of its own, and shifted by a share of its distance.

    Args:
      split: with right poses.
      degrees: root mean square of the turns.
      share: root mean square of the shifts, of the median distance from what the cameras look at.
      seed: of axes and directions.
    """
    random = np.random.default_rng(seed)
    poses = np.asarray(split.cameras.camera_to_world, np.float64)
    away = np.linalg.norm(poses[:, :, 3] - focus_point(poses.astype(np.float32)), axis=-1)
    turns = np.deg2rad(degrees) * random.normal(size=(len(poses), 3)) / np.sqrt(3.0)
    shifts = share * np.median(away) * random.normal(size=(len(poses), 3)) / np.sqrt(3.0)
    moved = np.empty_like(poses)
    for new, old, turn, shift in zip(moved, poses, turns, shifts, strict=True):
        new[:, :3], new[:, 3] = rotation(turn) @ old[:, :3], old[:, 3] + shift
    cameras = dataclasses.replace(split.cameras, camera_to_world=moved.astype(np.float32))
    return dataclasses.replace(split, cameras=cameras)


def rotation(turn: np.ndarray) -> np.ndarray:
    """By an axis times an angle: the exponential of its cross product's matrix, as a series."""
    x, y, z = turn
    across = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    term, total = np.eye(3), np.eye(3)
    for power in range(1, 30):
        term = term @ across / power
        total = total + term
    return total


def similarity_between(points: np.ndarray, others: np.ndarray) -> Similarity:
    """That which brings points [N, 3] nearest to others (Umeyama, PAMI 1991)."""
    a, b = points - points.mean(axis=0), others - others.mean(axis=0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = (u * sign) @ vt
    scale = float((s * sign).sum() / (a * a).sum())
    return Similarity(scale, turn, others.mean(axis=0) - scale * turn @ points.mean(axis=0))


def pose_errors(poses: np.ndarray, truth: np.ndarray) -> tuple[float, float, Similarity]:
    """How far cameras are off, after the best similarity of their positions.

    Returns:
      Root mean squares of the angles in degrees, and of the distances in the median distance from
      what the true cameras look at; and the similarity, to the frame of the truth.
    """
    poses, truth = np.asarray(poses, np.float64), np.asarray(truth, np.float64)
    frame = similarity_between(poses[:, :, 3], truth[:, :, 3])
    aligned = frame.poses(poses)
    cosine = np.einsum("nij,nij->n", aligned[:, :, :3], truth[:, :, :3])
    angles = np.rad2deg(np.arccos(np.clip((cosine - 1.0) / 2.0, -1.0, 1.0)))
    away = np.linalg.norm(aligned[:, :, 3] - truth[:, :, 3], axis=-1)
    distance = np.linalg.norm(truth[:, :, 3] - focus_point(truth.astype(np.float32)), axis=-1)
    return (
        float(np.sqrt((angles**2).mean())),
        float(np.sqrt((away**2).mean()) / np.median(distance)),
        frame,
    )


def colour_error(found: np.ndarray, truth: np.ndarray, photographs: np.ndarray) -> float:
    """Root mean square difference of photographs' colours mapped by affines, but for what all share.

    The scene's colours may be mapped by one G if each A_i is by its inverse; G is fitted by least
    squares.

    Args:
      found, truth: [N, 3, 4].
      photographs: [N, H, W, 4], as they were before they were disturbed: of each, 500 of the colours
        that alpha leaves count.
    """
    random = np.random.default_rng(0)
    picked = []
    for photograph in photographs:
        shown = photograph[photograph[..., 3] == 255][:, :3] / 255.0
        picked.append(shown[random.integers(len(shown), size=500)])
    whole = np.concatenate([np.stack(picked), np.ones((len(picked), 500, 1))], axis=-1)
    seen = np.einsum("nij,nkj->nki", truth, whole)
    # Each photograph says where G must take a colour, so that its own affine makes what was seen of it.
    back = np.linalg.inv(found[:, :, :3])
    wanted = np.einsum("nij,nkj->nki", back, seen - found[:, None, :, 3])
    gauge = np.linalg.lstsq(whole.reshape(-1, 4), wanted.reshape(-1, 3), rcond=None)[0]
    again = np.einsum("nij,nkj->nki", found[:, :, :3], whole @ gauge) + found[:, None, :, 3]
    return float(np.sqrt(((again - seen) ** 2).mean()))
