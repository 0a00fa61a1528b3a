"""The true surfaces of the demo scene, and how meshes compare with them, by Mitsuba 3's rays."""

import json
import sys
from pathlib import Path
from typing import Any

import drjit as dr
import mitsuba as mi
import numpy as np
import trimesh
from PIL import Image
from scipy.spatial import KDTree

mi.set_variant("llvm_ad_rgb")
sys.path.append(str(Path(__file__).parents[1] / "demo_scene"))
from scene import build_parts  # noqa: E402

DEMO = Path(__file__).parents[2] / "jaxnerf" / "scenes" / "demo"
# Of the scene's box, [-1.15, 1.15]^3: a point so near to the other surface counts as found.
BOX, SHARE = 2.3, 0.01
_LIFT = 1e-3  # off a surface, where rays begin


def true_surfaces() -> Any:
    """All surfaces of the scene as one mesh, those that nobody sees too."""
    parts = []
    for _, shape in build_parts():
        if shape.is_mesh():
            values = mi.traverse(shape)
            vertices = np.array(values["vertex_positions"]).reshape(-1, 3)
            faces = np.array(values["faces"]).reshape(-1, 3)
            parts.append(trimesh.Trimesh(vertices, faces, process=False))
        else:
            box = shape.bbox()
            low, high = np.array(box.min).reshape(3), np.array(box.max).reshape(3)
            ball = trimesh.creation.icosphere(4, 0.5 * float((high - low).mean()))
            ball.apply_translation(0.5 * (low + high))
            parts.append(ball)
    return trimesh.util.concatenate(parts)


class Rays:
    """What rays meet in a mesh."""

    def __init__(self, mesh: Any):
        shape = mi.Mesh("mesh", len(mesh.vertices), len(mesh.faces))
        values = mi.traverse(shape)
        values["vertex_positions"] = np.asarray(mesh.vertices, np.float32).ravel()
        values["faces"] = np.asarray(mesh.faces, np.uint32).ravel()
        values.update()
        self._scene = mi.load_dict({"type": "scene", "mesh": shape})

    def meet(self, origins: np.ndarray, directions: np.ndarray):
        """How far along rays the mesh is met first: infinite where never; and which triangle is."""
        begin, along = (np.array(x.T, np.float32, order="C") for x in (origins, directions))
        ray = mi.Ray3f(mi.Point3f(begin), mi.Vector3f(along))
        found = self._scene.ray_intersect_preliminary(ray, coherent=False)
        t = np.array(dr.select(found.is_valid(), found.t, np.inf))
        return t, np.array(found.prim_index)


def cameras(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Poses [N, 4, 4] of the demo's cameras, and the directions [256 x 256, 3] of pixels."""
    contents = json.loads((DEMO / f"transforms_{split}.json").read_text())
    poses = np.array([frame["transform_matrix"] for frame in contents["frames"]])
    axis = (np.arange(256) + 0.5 - 128) / 128 * np.tan(0.5 * contents["camera_angle_x"])
    x, y = np.meshgrid(axis, -axis)
    return poses, np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)


def is_seen(rays: Rays, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Which points of a surface some training camera sees, from either side."""
    seen = np.zeros(len(points), bool)
    for pose in cameras("train")[0]:
        towards = pose[:3, 3] - points
        length = np.linalg.norm(towards, axis=-1, keepdims=True)
        side = np.sign((towards * normals).sum(axis=-1, keepdims=True))
        begin = points + _LIFT * side * normals
        seen |= np.isinf(rays.meet(begin, towards / length)[0])
    return seen


def compare(found: Any, truth: Any, count: int = 200_000) -> dict:
    """Precision, recall, F-score and chamfer distance of points sampled uniformly on both surfaces.

    Recall is of what training cameras see of the true surfaces. The median angle, in degrees, is that
    between the normals, whatever their side, of the points that count for precision and of the true
    points nearest to them.
    """
    points, face = trimesh.sample.sample_surface(truth, count, seed=0)[:2]
    seen = is_seen(Rays(truth), points, truth.face_normals[face])
    mine, other = trimesh.sample.sample_surface(found, count, seed=1)[:2]
    there, nearest = KDTree(points).query(mine, workers=2)
    here, _ = KDTree(mine).query(points[seen], workers=2)
    limit = SHARE * BOX
    normals = truth.face_normals[face][nearest], found.face_normals[other]
    cosine = np.abs((normals[0] * normals[1]).sum(axis=-1))[there < limit].clip(0.0, 1.0)
    precision, recall = float((there < limit).mean()), float((here < limit).mean())
    return {
        "precision": precision,
        "recall": recall,
        "f_score": 2 * precision * recall / (precision + recall),
        "chamfer": 0.5 * float(there.mean() + here.mean()),
        "median_error": float(np.median(there)),
        "median_angle": float(np.degrees(np.median(np.arccos(cosine)))),
        "seen": float(seen.mean()),
    }


def silhouettes(found: Any) -> float:
    """The mean intersection over union of a mesh's silhouettes and the test views' alpha masks."""
    rays, (poses, directions) = Rays(found), cameras("test")
    shares = []
    for number, pose in enumerate(poses):
        along = directions @ pose[:3, :3].T
        met, _ = rays.meet(np.broadcast_to(pose[:3, 3], along.shape), along)
        mask = np.array(Image.open(DEMO / f"test/r_{number}.png"))[..., 3].reshape(-1) > 127
        hit = np.isfinite(met)
        shares.append((hit & mask).sum() / (hit | mask).sum())
    return float(np.mean(shares))


def pictures(found: Any, path: Path, numbers=(0, 12), size: int = 512) -> None:
    """A picture of a mesh from test cameras: its colours and, below, its normals."""
    rays, (poses, _) = Rays(found), cameras("test")
    axis = (np.arange(size) + 0.5 - size / 2) / (size / 2) * np.tan(0.35)
    x, y = np.meshgrid(axis, -axis)
    local = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
    rows = []
    for pose in poses[list(numbers)]:
        along = local @ pose[:3, :3].T
        met, face = rays.meet(np.broadcast_to(pose[:3, 3], along.shape), along)
        hit = np.isfinite(met)
        colours = found.visual.vertex_colors[found.faces][:, :, :3].mean(axis=1)
        shown = [np.full((size * size, 3), 255.0) for _ in range(2)]
        shown[0][hit] = colours[face[hit]]
        shown[1][hit] = 127.5 + 127.5 * found.face_normals[face[hit]]
        rows.append(np.concatenate([part.reshape(size, size, 3) for part in shown], axis=0))
    Image.fromarray(np.concatenate(rows, axis=1).astype(np.uint8)).save(path)
