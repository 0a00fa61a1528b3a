"""Path-trace four scenes unlike lego and the demo, in NeRF's Blender format, to measure settings on.

    pip install mitsuba numpy pillow
    python experiments/other_scenes/render.py --out scenes

A ship with rigging on a sea that fills the frame; a tree of leaves without thickness; spheres that
mirror, refract and shine; a cage of wires around a dark core. All geometry is made here, of Mitsuba's
shapes and meshes of our own. Cameras stand on a sphere and look at the origin, those for training
scattered over the upper half of it, those for testing on a waving orbit.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mitsuba as mi
import numpy as np
from PIL import Image

Shapes = dict[str, Any]

CAMERA_ANGLE_X = 0.6911  # horizontal field of view in radians
CAMERA_DISTANCE = 4.0
COUNTS = {"train": 100, "val": 2, "test": 20}


def rgb(*value: float) -> dict[str, Any]:
    """A colour of linear light."""
    return {"type": "rgb", "value": list(value)}


def matt(*colour: float) -> dict[str, Any]:
    """A surface that looks alike from everywhere."""
    return {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": rgb(*colour)}}


def varnish(*colour: float, roughness: float = 0.1) -> dict[str, Any]:
    """A coloured surface with a clear coat."""
    coat = {"type": "roughplastic", "diffuse_reflectance": rgb(*colour), "alpha": roughness}
    return {"type": "twosided", "bsdf": coat}


def metal(material: str, roughness: float = 0.15) -> dict[str, Any]:
    """A rough conductor by Mitsuba's name of it."""
    return {"type": "roughconductor", "material": material, "alpha": roughness}


def checks(*colour: float) -> dict[str, Any]:
    """A matt surface with a checkerboard of a colour and of a light one."""
    board = {
        "type": "checkerboard",
        "color0": rgb(*colour),
        "color1": rgb(0.8, 0.8, 0.7),
        "to_uv": mi.ScalarTransform4f().scale([12, 12, 1]),
    }
    return {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": board}}


def rod(begin: Any, end: Any, radius: float, surface: Any) -> dict[str, Any]:
    """A cylinder."""
    ends = {"p0": [float(x) for x in begin], "p1": [float(x) for x in end]}
    return {"type": "cylinder", **ends, "radius": float(radius), "bsdf": surface}


def ball(centre: Any, radius: float, surface: Any) -> dict[str, Any]:
    """A sphere."""
    place = {"center": [float(x) for x in centre], "radius": float(radius)}
    return {"type": "sphere", **place, "bsdf": surface}


def box(centre: Any, sides: Any, surface: Any) -> dict[str, Any]:
    """A box along the axes."""
    centre, half = [float(x) for x in centre], [float(x) / 2 for x in sides]
    place = mi.ScalarTransform4f().translate(centre).scale(half)
    return {"type": "cube", "to_world": place, "bsdf": surface}


def mesh(vertices: np.ndarray, faces: np.ndarray, surface: Any) -> Any:
    """Flat triangles."""
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(surface)
    properties["face_normals"] = True
    made = mi.Mesh("mesh", len(vertices), len(faces), properties)
    parameters = mi.traverse(made)
    parameters["vertex_positions"] = vertices.astype(np.float32).ravel()
    parameters["faces"] = faces.astype(np.uint32).ravel()
    parameters.update()
    return made


def sea(random: np.random.Generator, radius: float = 1.35, height: float = -0.35) -> Any:
    """A disc of waves."""
    count = 300
    x, y = np.meshgrid(*[np.linspace(-radius, radius, count)] * 2, indexing="ij")
    z = np.full_like(x, height)
    for number in range(1, 9):
        angle, phase = random.uniform(0, 2 * np.pi, 2)
        along = x * np.cos(angle) + y * np.sin(angle)
        z += 0.02 / number * np.sin(3 * number * along + phase)
    inside, index = x**2 + y**2 < radius**2, np.arange(count * count).reshape(count, count)
    whole = inside[:-1, :-1] & inside[1:, :-1] & inside[:-1, 1:] & inside[1:, 1:]
    a, b, c, d = (
        part[whole] for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
    )
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    vertices = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    return mesh(vertices, faces, varnish(0.05, 0.2, 0.3, roughness=0.05))


def ship() -> Shapes:
    """A ship of planks with three masts, their yards, sails and thin ropes, at sea."""
    wood, rope, sail = matt(0.35, 0.2, 0.1), matt(0.6, 0.55, 0.4), matt(0.85, 0.8, 0.7)
    shapes = {"sea": sea(np.random.default_rng(7))}
    for plank in range(14):
        x = -0.65 + 0.1 * plank
        width = 0.32 * math.sqrt(max(1 - (x / 0.8) ** 2, 0.05))
        colour = matt(0.3 + 0.02 * (plank % 3), 0.18, 0.1)
        shapes[f"plank_{plank}"] = box((x, 0, -0.22), (0.098, width, 0.3), colour)
    for mast, x in enumerate((-0.4, 0.0, 0.4)):
        top = 0.95 if mast == 1 else 0.8
        shapes[f"mast_{mast}"] = rod((x, 0, -0.2), (x, 0, top), 0.012, wood)
        for yard in range(3):
            z, width = top - 0.15 - 0.25 * yard, 0.22 + 0.06 * yard
            shapes[f"yard_{mast}_{yard}"] = rod((x, -width, z), (x, width, z), 0.008, wood)
            if (mast + yard) % 2:
                place = (x + 0.015, 0.0, z - 0.11)
                shapes[f"sail_{mast}_{yard}"] = box(place, (0.004, 1.8 * width, 0.2), sail)
        for number in range(12):
            foot = (x - 0.15 + 0.06 * (number % 6), 0.16 if number < 6 else -0.16, -0.08)
            shapes[f"rope_{mast}_{number}"] = rod((x, 0, top - 0.1), foot, 0.003, rope)
    return shapes


def tree() -> Shapes:
    """A little tree in a pot, of 700 leaves without thickness."""
    random, bark = np.random.default_rng(7), matt(0.3, 0.22, 0.15)
    earth = mi.ScalarTransform4f().translate([0.0, 0.0, -0.62]).scale([0.3, 0.3, 1.0])
    shapes = {
        "pot": rod((0, 0, -1), (0, 0, -0.6), 0.3, varnish(0.5, 0.2, 0.1, roughness=0.2)),
        "earth": {"type": "disk", "to_world": earth, "bsdf": matt(0.1, 0.07, 0.05)},
        "trunk": rod((0, 0, -0.7), (0.03, 0.02, 0.5), 0.03, bark),
    }
    corners, faces = [], []
    for leaf in range(700):
        out, normal = random.normal(size=(2, 3))
        out, normal = out / np.linalg.norm(out), normal / np.linalg.norm(normal)
        centre = out * random.uniform(0.15, 0.62) * [1, 1, 0.9] + [0, 0, 0.35]
        long = np.cross(normal, out)
        long /= np.linalg.norm(long)
        wide = np.cross(normal, long)
        corners += [centre + x for x in (-0.1 * long, 0.045 * wide, 0.1 * long, -0.045 * wide)]
        faces += [[4 * leaf, 4 * leaf + 1, 4 * leaf + 2], [4 * leaf, 4 * leaf + 2, 4 * leaf + 3]]
        if leaf % 7 == 0:
            foot = (0, 0, random.uniform(-0.1, 0.5))
            shapes[f"twig_{leaf}"] = rod(foot, centre, 0.006, bark)
    green = varnish(0.08, 0.35, 0.06, roughness=0.15)
    return shapes | {"leaves": mesh(np.array(corners), np.array(faces), green)}


def spheres() -> Shapes:
    """Twelve spheres of as many materials on a checkered slab."""
    surfaces = [
        metal("Au", 0.05), metal("Cu", 0.2), {"type": "conductor", "material": "Cr"},
        {"type": "dielectric"}, varnish(0.7, 0.05, 0.05, roughness=0.05), varnish(0.05, 0.1, 0.7),
        matt(0.8, 0.8, 0.8), checks(0.1, 0.1, 0.4), metal("Al", 0.1),
        varnish(0.9, 0.9, 0.9, roughness=0.02), checks(0.6, 0.1, 0.1), matt(0.02, 0.02, 0.02),
    ]  # fmt: skip
    shapes = {"slab": box((0, 0, -0.42), (2.5, 1.9, 0.1), checks(0.3, 0.3, 0.3))}
    for number, surface in enumerate(surfaces):
        centre = (-0.9 + 0.6 * (number % 4), -0.6 + 0.6 * (number // 4), -0.1)
        shapes[f"sphere_{number}"] = ball(centre, 0.26, surface)
    return shapes


def cage() -> Shapes:
    """A sphere of wires around a dark core, on a mirroring stem with legs."""
    wire, centre, radius = metal("Al"), np.array([0.0, 0.0, 0.5]), 0.45
    turn = np.linspace(0, 2 * np.pi, 33)
    zero = np.zeros_like(turn)
    rings = [
        radius * np.stack([np.cos(turn) * np.cos(a), np.cos(turn) * np.sin(a), np.sin(turn)], -1)
        for a in np.linspace(0, np.pi, 14, endpoint=False)
    ]
    for z in np.linspace(-0.4, 0.4, 9):
        across = math.sqrt(radius**2 - z**2)
        rings.append(np.stack([across * np.cos(turn), across * np.sin(turn), zero + z], axis=-1))
    shapes = {
        "core": ball(centre, 0.25, matt(0.05, 0.05, 0.06)),
        "stem": rod((0, 0, 0.06), (0, 0, -0.8), 0.06, {"type": "conductor", "material": "Cr"}),
        "band": rod((0, 0, -0.1), (0, 0, -0.25), 0.09, varnish(0.6, 0.05, 0.05)),
        "foot": box((0, 0, -0.85), (0.9, 0.9, 0.08), varnish(0.03, 0.03, 0.03)),
    }
    for number, ring in enumerate(rings):
        for part, (begin, end) in enumerate(itertools.pairwise(ring)):
            shapes[f"wire_{number}_{part}"] = rod(centre + begin, centre + end, 0.006, wire)
    for number in range(3):
        x, y = 0.8 * math.cos(2.1 * number), 0.8 * math.sin(2.1 * number)
        shapes[f"leg_{number}"] = rod((0, 0, -0.3), (x, y, -0.9), 0.02, wire)
    return shapes


SCENES: dict[str, Callable[[], Shapes]] = {
    "ship": ship, "tree": tree, "spheres": spheres, "cage": cage
}  # fmt: skip


def looking_at_origin(azimuth: float, elevation: float) -> np.ndarray:
    """Camera-to-world [4, 4] with OpenGL axes of a camera on the sphere; angles in radians."""
    flat = math.cos(elevation)
    backward = np.array([math.cos(azimuth) * flat, math.sin(azimuth) * flat, math.sin(elevation)])
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(backward, right), backward], axis=1)
    pose[:3, 3] = CAMERA_DISTANCE * backward
    return pose


def poses(split: str) -> list[np.ndarray]:
    """Of a split: scattered over the upper half of the sphere, or for "test" a waving orbit."""
    count = COUNTS[split]
    if split == "test":
        turns = 2 * np.pi * np.arange(count) / count
        return [looking_at_origin(t, math.radians(35 + 28 * math.sin(2 * t))) for t in turns]
    random = np.random.default_rng([3, list(COUNTS).index(split)])
    return [
        looking_at_origin(random.uniform(0, 2 * np.pi), math.asin(random.uniform(0.02, 0.99)))
        for _ in range(count)
    ]


def picture(scene: Any, integrator: Any, pose: np.ndarray, size: int, samples: int, seed: int):
    """An 8-bit RGBA picture with straight alpha."""
    # Mitsuba's cameras have +x to the left and look along +z.
    to_world = mi.ScalarTransform4f((pose @ np.diag([-1.0, 1.0, -1.0, 1.0])).tolist())
    film = {"type": "hdrfilm", "width": size, "height": size, "pixel_format": "rgba"}
    sensor = mi.load_dict(
        {
            "type": "perspective",
            "fov": math.degrees(CAMERA_ANGLE_X),
            "fov_axis": "x",
            "to_world": to_world,
            "film": {**film, "rfilter": {"type": "box"}},
            "sampler": {"type": "multijitter", "sample_count": samples},
        }
    )
    rendered = np.array(mi.render(scene, sensor=sensor, integrator=integrator, seed=seed))
    alpha = np.clip(rendered[..., 3:], 0.0, 1.0)
    linear = np.clip(rendered[..., :3] / np.maximum(alpha, 1e-4), 0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    both = np.concatenate([curved * (alpha > 0.0), alpha], axis=-1)
    return Image.fromarray((255.0 * both + 0.5).astype(np.uint8))


def render(name: str, folder: Path, size: int, samples: int) -> None:
    """Write all splits of a scene; test views with twice the samples a pixel."""
    light = {
        "sky": {"type": "constant", "radiance": 0.7},
        "sun": {"type": "directional", "direction": [-0.5, 0.4, -0.8], "irradiance": 1.8},
    }
    scene = mi.load_dict({"type": "scene", **light, **SCENES[name]()})
    integrator = mi.load_dict({"type": "path", "max_depth": 5, "hide_emitters": True})
    seed = 0
    for split in COUNTS:
        (folder / split).mkdir(parents=True, exist_ok=True)
        frames, count = [], samples * (2 if split == "test" else 1)
        for number, pose in enumerate(poses(split)):
            seed += 1
            image = picture(scene, integrator, pose, size, count, seed)
            image.save(folder / split / f"r_{number}.png")
            frames.append({"file_path": f"./{split}/r_{number}", "transform_matrix": pose.tolist()})
        contents = {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(contents, indent=1))


def main() -> None:
    """See the file's docstring."""
    parser = argparse.ArgumentParser(description="Path-trace four scenes in NeRF's Blender format.")
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder for a folder of each scene"
    )
    parser.add_argument("--scenes", nargs="*", default=list(SCENES), choices=list(SCENES))
    parser.add_argument("--size", type=int, default=800, help="of the pictures, in pixels")
    parser.add_argument("--samples", type=int, default=16, help="paths a pixel")
    parser.add_argument("--variant", default="llvm_ad_rgb", help="Mitsuba's, e.g. scalar_rgb")
    arguments = parser.parse_args()
    mi.set_variant(arguments.variant)
    for name in arguments.scenes:
        render(name, arguments.out / name, arguments.size, arguments.samples)
        print(f"{name}: {arguments.out / name}", flush=True)


if __name__ == "__main__":
    main()
