"""Path-trace the demo scene of jaxnerf: a studio still life, in NeRF's Blender format.

    pip install mitsuba numpy pillow pyoxipng
    python experiments/demo_scene/render.py --out jaxnerf/scenes/demo

Everything in the scene is made here: the meshes (meshes.py), the printed textures and the studio
lighting (scene.py) are computed with numpy, and Mitsuba 3 traces the light. Camera rays are made
here too, straight from the pose that is written to ``transforms_*.json``, so pictures and poses
cannot disagree.

The world is right-handed with z up. A pose is a camera-to-world matrix with OpenGL axes: +x right,
+y up, looking along -z. Pixel (row i, column j) has its centre at (i + 0.5, j + 0.5), so it looks
along ``((j + 0.5 - w / 2) / f, -(i + 0.5 - h / 2) / f, -1)``. See README.md for the files written.
"""

import argparse
import io
import json
import math
import time
from pathlib import Path

import drjit as dr
import mitsuba as mi
import numpy as np
import oxipng
from PIL import Image
from scene import OBJECTS, SPHERES, TABLE_Z, build_scene

# Everything seen lies between these depths.
NEAR, FAR = 2.4, 5.6
CAMERA_ANGLE_X = 0.7  # horizontal field of view in radians
CAMERA_DISTANCE = 4.0  # from the camera to the origin, where every camera looks
ELEVATION_RANGE = (5.0, 80.0)  # degrees above the horizon
COUNTS = {"train": 100, "val": 20, "test": 40}
DEFAULT_SAMPLES = {"train": 256, "val": 256, "test": 576}
DEPTH_UNIT = 1e-4  # one step of the 16-bit depth pictures, in scene units
CLAMP = 6.0  # no single light path may bring more than this to a pixel (against fireflies)
MAX_WAVEFRONT = 1 << 22  # light paths traced at a time
PACKING = {  # oxipng's options: try hard, but keep the pixel format as it is
    "level": 6,
    "bit_depth_reduction": False,
    "color_type_reduction": False,
    "palette_reduction": False,
    "grayscale_reduction": False,
}


def look_at_origin(azimuth, elevation):
    """Camera-to-world matrix (OpenGL axes) of a camera on the sphere that looks at the origin.

    Angles in degrees; azimuth 0 is on the +x side, 90 on the +y side.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    backward = np.array([math.cos(a) * math.cos(e), math.sin(a) * math.cos(e), math.sin(e)])
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(backward, right), backward], 1)
    pose[:3, 3] = CAMERA_DISTANCE * backward
    return pose


def camera_poses(split, seed):
    """The poses of a split: spread evenly over the hemisphere, or for 'test' a waving orbit."""
    count = COUNTS[split]
    if split == "test":
        turn = np.arange(count) / count
        return [look_at_origin(360 * t - 90, 34 + 25 * math.sin(4 * math.pi * t)) for t in turn]
    rng = np.random.default_rng([seed, list(COUNTS).index(split)])
    # Roberts' low-discrepancy sequence under a random shift: even in azimuth and in height.
    sequence = (rng.random(2) + np.outer(np.arange(count), [0.7548776662, 0.5698402910])) % 1
    low, high = np.sin(np.radians(ELEVATION_RANGE))
    elevation = np.degrees(np.arcsin(low + (high - low) * sequence[:, 1]))
    return [look_at_origin(360 * a, e) for a, e in zip(sequence[:, 0], elevation, strict=True)]


def camera_rays(pose, size, pixel, offset):
    """World rays through ``offset`` (in [0, 1)^2) of pixels, and their cosine to the axis."""
    focal = 0.5 * size / math.tan(0.5 * CAMERA_ANGLE_X)
    x = (mi.Float(pixel % size) + offset.x - 0.5 * size) / focal
    y = (0.5 * size - mi.Float(pixel // size) - offset.y) / focal
    entries = [[dr.opaque(mi.Float, float(pose[i, j])) for j in range(4)] for i in range(3)]
    direction = mi.Vector3f(*[row[0] * x + row[1] * y - row[2] for row in entries])
    cosine = dr.rsqrt(x * x + y * y + 1)
    return mi.Ray3f(mi.Point3f(*[row[3] for row in entries]), direction * cosine), cosine


def render_picture(scene, integrator, sampler, pose, size, samples, seed):
    """Premultiplied linear RGBA, (size, size, 4), of ``samples`` paths a pixel (box filter)."""
    chunk = size * size
    while chunk * samples > MAX_WAVEFRONT and chunk % 2 == 0:
        chunk //= 2
    rows = []
    for start in range(0, size * size, chunk):
        sampler.seed(seed * 4096 + start // chunk, chunk * samples)
        pixel = dr.opaque(mi.UInt32, start) + dr.arange(mi.UInt32, chunk * samples) // samples
        ray, _ = camera_rays(pose, size, pixel, sampler.next_2d())
        colour, valid, _ = integrator.sample(scene, sampler, mi.RayDifferential3f(ray))
        peak = dr.max(colour)
        colour = colour * dr.select(peak > CLAMP, CLAMP / peak, 1)
        channels = [dr.select(valid & dr.isfinite(peak), c, 0) for c in colour]
        channels.append(dr.select(valid, mi.Float(1), 0))
        dr.eval(channels)
        rows.append(np.stack([dr.block_sum(c, samples).numpy() / samples for c in channels], -1))
    return np.concatenate(rows).reshape(size, size, 4)


def render_geometry(scene, ids, pose, size):
    """Depth along the axis, facing world normal and object id at the pixel centres."""
    pixel = dr.arange(mi.UInt32, size * size)
    ray, cosine = camera_rays(pose, size, pixel, mi.Point2f(0.5))
    hit = scene.ray_intersect(ray)
    found = hit.is_valid()
    depth = dr.select(found, hit.t * cosine, 0).numpy().reshape(size, size)
    normal = dr.select(dr.dot(hit.sh_frame.n, ray.d) > 0, -hit.sh_frame.n, hit.sh_frame.n)
    normal = np.asarray(normal).T.reshape(size, size, 3)
    index = dr.reinterpret_array(mi.UInt32, hit.shape).numpy().reshape(size, size)
    found = found.numpy().reshape(size, size)
    table = np.zeros(max(ids) + 1, np.uint8)
    table[list(ids)] = list(ids.values())
    return depth, np.where(found[..., None], normal, 0), np.where(found, table[index * found], 0)


def to_srgb8(rgba):
    """8-bit sRGB with straight alpha of premultiplied linear RGBA."""
    alpha = rgba[..., 3:]
    colour = np.clip(rgba[..., :3] / np.maximum(alpha, 1e-6), 0, 1)
    colour = np.where(colour <= 0.0031308, 12.92 * colour, 1.055 * colour ** (1 / 2.4) - 0.055)
    alpha = np.round(255 * np.clip(alpha, 0, 1))
    colour = np.where(alpha > 0, np.round(255 * colour), 0)
    return np.concatenate([colour, alpha], -1).astype(np.uint8)


def save_png(path, array):
    """Write a picture as a PNG, losslessly packed as tightly as oxipng can."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    packed = oxipng.optimize_from_memory(buffer.getvalue(), **PACKING)
    path.write_bytes(packed)


def write_geometry(stem, depth, normal, found):
    """Write the ground truth of a view beside its picture."""
    hit = (found > 0)[..., None]
    save_png(Path(f"{stem}_depth.png"), np.round(depth / DEPTH_UNIT).astype(np.uint16))
    packed = np.where(hit, np.round((normal + 1) / 2 * 255), 0)
    save_png(Path(f"{stem}_normal.png"), packed.astype(np.uint8))
    save_png(Path(f"{stem}_object.png"), found.astype(np.uint8))


def write_transforms(out, split, poses):
    """Write transforms_SPLIT.json."""
    frames = [
        {"file_path": f"./{split}/r_{k}", "transform_matrix": np.round(pose, 9).tolist()}
        for k, pose in enumerate(poses)
    ]
    contents = {"camera_angle_x": CAMERA_ANGLE_X, "near": NEAR, "far": FAR, "frames": frames}
    text = json.dumps(contents)
    (out / f"transforms_{split}.json").write_text(text + "\n")


def write_description(out, render):
    """Write scene.json: the objects by id, exact geometry where there is one, and the render."""
    objects: dict[str, dict] = {str(k): {"name": name} for k, name in enumerate(OBJECTS, 1)}
    objects["1"]["plane"] = {"normal": [0.0, 0.0, 1.0], "offset": TABLE_Z}
    for entry in objects.values():
        spheres = SPHERES.get(entry["name"], [])
        if len(spheres) == 1:
            entry["sphere"] = {"center": list(spheres[0][0]), "radius": spheres[0][1]}
    description = {
        "description": "A studio still life on a round table, path-traced with Mitsuba 3 by "
        "experiments/demo_scene/render.py. Plane: dot(normal, p) = offset.",
        "depth_unit": DEPTH_UNIT,
        "objects": objects,
        "render": render,
    }
    (out / "scene.json").write_text(json.dumps(description, indent=2) + "\n")


def main():
    """Render the splits asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--samples", type=int, help="light paths a pixel (default: by split)")
    parser.add_argument("--size", type=int, default=256, help="width and height in pixels")
    parser.add_argument("--split", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", default="llvm_ad_rgb", help="Mitsuba's, e.g. cuda_ad_rgb")
    parser.add_argument("--preview", action="store_true", help="four noisy test views only")
    args = parser.parse_args()
    mi.set_variant(args.variant)
    scene, ids = build_scene()
    integrator = mi.load_dict({"type": "path", "max_depth": 10, "hide_emitters": True})
    used = {}
    for split in ["test"] if args.preview else args.split:
        poses = camera_poses(split, args.seed)
        wanted = 16 if args.preview else args.samples or DEFAULT_SAMPLES[split]
        samples = used[split] = math.ceil(math.sqrt(wanted)) ** 2
        sampler = mi.load_dict({"type": "multijitter", "sample_count": samples})
        sampler.set_samples_per_wavefront(samples)
        if not args.preview:
            args.out.mkdir(parents=True, exist_ok=True)
            write_transforms(args.out, split, poses)
        for k in range(0, len(poses), len(poses) // 4 if args.preview else 1):
            start = time.perf_counter()
            seed = (args.seed * len(COUNTS) + list(COUNTS).index(split)) * 1024 + k
            picture = render_picture(scene, integrator, sampler, poses[k], args.size, samples, seed)
            stem = args.out / split / f"r_{k}"
            save_png(Path(f"{stem}.png"), to_srgb8(picture))
            if split == "test":
                write_geometry(stem, *render_geometry(scene, ids, poses[k], args.size))
            print(f"{split} {k}: {time.perf_counter() - start:.1f} s", flush=True)
    write_description(
        args.out,
        {
            "renderer": f"mitsuba {mi.__version__} ({args.variant})",
            "samples_per_pixel": used,
            "sample_clamp": CLAMP,
            "seed": args.seed,
            "filter": "box, 1 pixel wide",
        },
    )


if __name__ == "__main__":
    main()
