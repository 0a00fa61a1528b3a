"""The demo still life: its objects, materials, printed textures and studio lighting."""

import drjit as dr
import mitsuba as mi
import numpy as np
from meshes import box, lathe, move, prism, rotation, spline, torus, tube

EXPOSURE = 0.46  # scales the environment, hence every picture
TABLE_Z = -0.55  # height of the table's top
TABLE_RADIUS = 1.1
# fmt: off
OBJECTS = (  # object id = place in this list + 1; id 0 is the empty background
    "table_top", "table_base", "gold_ball", "glass_ball", "orange", "limes", "bowl", "vase",
    "stems", "flowers", "arch", "cone", "books", "armillary",
)
# fmt: on
SPHERES = {  # object: list of (centre, radius)
    "gold_ball": [((0.02, -0.02, TABLE_Z + 0.25), 0.25)],
    "glass_ball": [((0.20, -0.66, TABLE_Z + 0.20), 0.20)],
    "orange": [((-0.632, -0.345, TABLE_Z + 0.191), 0.15)],
    "limes": [
        ((-0.42, -0.50, TABLE_Z + 0.166), 0.112),
        ((-0.375, -0.285, TABLE_Z + 0.167), 0.105),
    ],
}
BOWL_AT = (-0.53, -0.38, TABLE_Z)
VASE_AT = (-0.42, 0.42, TABLE_Z)
ARCH_AT, ARCH_YAW = (0.36, 0.52, TABLE_Z), -28.0
CONE_AT = (0.36, 0.52, TABLE_Z)
BOOKS_AT = (0.68, -0.20, TABLE_Z)
BOOKS_HEIGHT = 0.17


def linear(colour):
    """Linear RGB of an sRGB colour such as '#e0a030'."""
    srgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def mix(mask, colour, other):
    """A picture (float32, linear RGB) of ``colour`` where the mask is 1 and ``other`` where 0."""
    mask = np.asarray(mask, float)[..., None]
    return (mask * linear(colour) + (1 - mask) * linear(other)).astype(np.float32)


def reflectance(value):
    """A Mitsuba texture from a colour string or a linear RGB picture."""
    if isinstance(value, str):
        return {"type": "rgb", "value": linear(value).tolist()}
    return {"type": "bitmap", "bitmap": mi.Bitmap(value), "raw": True}


def glazed(value, roughness):
    """A dielectric coat over a coloured base: varnish, glaze or plastic by its roughness."""
    coat = {"type": "roughplastic", "alpha": roughness, "diffuse_reflectance": reflectance(value)}
    return {"type": "twosided", "bsdf": coat}


def matte(value):
    """A diffuse surface."""
    return {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": reflectance(value)}}


def metal(material, roughness):
    """A conductor by Mitsuba's name for it."""
    conductor = {"type": "roughconductor", "material": material, "alpha": roughness}
    return {"type": "twosided", "bsdf": {**conductor, "distribution": "ggx"}}


def tinted_glass(colour):
    """Clear glass whose two surfaces each let ``colour`` through."""
    return {"type": "dielectric", "int_ior": 1.5, "specular_transmittance": reflectance(colour)}


def table_picture(size=2048):
    """The table's inlay: a round checkerboard with a ring and a border."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis * TABLE_RADIUS, axis * TABLE_RADIUS)
    radius = np.hypot(x, y)
    checker = (np.floor(x / 0.13) + np.floor(y / 0.13)) % 2
    picture = mix(checker, "#f3eadb", "#4f7f92")
    picture[radius > 0.88] = linear("#f3eadb")
    for inner, outer, colour in ((0.90, 0.925, "#b4552d"), (0.97, 2.0, "#8a5a3c")):
        picture[(radius > inner) & (radius < outer)] = linear(colour)
    return picture


def vase_picture(height=1024, width=2048):
    """The vase's glaze: zigzags, dots and stripes in bands around it."""
    v, u = np.meshgrid(
        (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
    )
    picture = mix(np.zeros_like(u), "#000000", "#1c6a72")
    zigzag = np.abs((u * 14) % 1 - 0.5) * 2
    picture[(np.abs(v - 0.30 - 0.05 * zigzag) < 0.016)] = linear("#f6ecd8")
    picture[(np.abs(v - 0.36 - 0.05 * zigzag) < 0.010)] = linear("#e9b44c")
    dots = np.hypot(((u * 28) % 1 - 0.5) / 28 * 3.0, v - 0.48) < 0.018
    picture[dots] = linear("#f6ecd8")
    for at in (0.255, 0.445, 0.515):
        picture[np.abs(v - at) < 0.006] = linear("#f6ecd8")
    return picture


def cover_picture(size=1024):
    """A book's printed cover: overlapping fans of arcs inside a frame."""
    axis = (np.arange(size) + 0.5) / size
    v, u = np.meshgrid(axis, axis, indexing="ij")
    row = np.floor(v * 6)
    picture = mix(np.zeros_like(u), "#000000", "#22355c")
    for step in (2, 1, 0):  # the fans of lower rows cover those above
        centre = (row + step) / 6
        x = (u * 5 + 0.5 * ((row + step) % 2)) % 1 - 0.5
        radius = np.hypot(x / 5, (v - centre) * 0.8) * 5 / 0.62
        ring = np.floor(radius * 4) % 2
        picture = np.where((radius < 1)[..., None], mix(ring, "#e9b44c", "#22355c"), picture)
    frame = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5)) > 0.45
    picture[frame] = linear("#e9b44c")
    return picture.astype(np.float32)


def studio_environment(height=256):
    """A far-away studio (latitude-longitude picture): dim walls and large softboxes."""
    theta = (np.arange(height) + 0.5) / height * np.pi
    phi = (np.arange(2 * height) + 0.5) / height * np.pi
    theta, phi = np.meshgrid(theta, phi, indexing="ij")
    world = np.stack([np.sin(phi) * np.sin(theta), np.cos(phi) * np.sin(theta), np.cos(theta)], -1)
    up = world[..., 2:]
    radiance = np.where(up > 0, 0.44 + 0.25 * up, 0.44 + 0.20 * up) * np.array([0.96, 1.0, 1.06])
    softboxes = (  # direction, half width, half height (tangents), colour
        ((-0.8, -0.9, 1.0), 0.85, 0.70, (3.5, 3.2, 2.8)),
        ((1.0, -0.35, 0.55), 0.40, 0.70, (1.7, 1.9, 2.2)),
        ((0.45, 1.0, 0.85), 0.70, 0.40, (2.6, 2.7, 2.8)),
        ((0.1, 0.0, 1.0), 0.45, 0.45, (2.8, 2.75, 2.7)),
    )
    for direction, half_width, half_height, colour in softboxes:
        forward = np.array(direction) / np.linalg.norm(direction)
        right = np.cross(forward, [0.0, 1.0, 0.0] if forward[2] > 0.9 else [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        above = np.cross(right, forward)
        ahead = world @ forward
        scale = np.maximum(ahead, 1e-6)
        edge = np.maximum(
            np.abs(world @ right) / scale / half_width, np.abs(world @ above) / scale / half_height
        )
        inside = np.clip((1.08 - edge) / 0.16, 0, 1) * (ahead > 0)
        radiance = radiance + inside[..., None] * np.array(colour)
    return (EXPOSURE * radiance).astype(np.float32)


def to_mitsuba(name, mesh, bsdf):
    """The Mitsuba shape of a (vertices, normals, uv, faces) mesh."""
    vertices, normals, uv, faces = mesh
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(bsdf)
    shape = mi.Mesh(name, len(vertices), len(faces), properties, normals is not None, True)
    params = mi.traverse(shape)
    params["vertex_positions"] = vertices.astype(np.float32).ravel()
    if normals is not None:
        params["vertex_normals"] = normals.astype(np.float32).ravel()
    params["vertex_texcoords"] = uv.astype(np.float32).ravel()
    params["faces"] = faces.astype(np.uint32).ravel()
    params.update()
    return shape


def stem_paths():
    """The flower stems, from inside the vase to the flowers: a list of point paths."""
    # fmt: off
    tips = ((-0.70, 0.30, 0.62), (-0.50, 0.52, 0.93), (-0.22, 0.36, 0.74), (-0.40, 0.72, 0.56),
            (-0.86, 0.52, 0.40), (-0.10, 0.58, 0.44))
    # fmt: on
    x, y, z = VASE_AT
    paths = []
    for tip in tips:
        lean = np.array(tip) - (x, y, 0.12)
        mouth = (x + 0.10 * lean[0], y + 0.10 * lean[1], 0.18)
        foot = (x - 0.12 * lean[0], y - 0.12 * lean[1], z + 0.2)
        middle = 0.5 * (np.array(mouth) + tip) + (-0.10 * lean[0], -0.10 * lean[1], 0.03)
        paths.append(spline([foot, mouth, middle, tip], 48))
    return paths


def ceramic_profiles():
    """The profiles (radius, z) of the bowl and of the vase: outside, over the rim, inside."""
    # fmt: off
    bowl = spline([(0.0, 0.012), (0.13, 0.0), (0.15, 0.02), (0.25, 0.06), (0.335, 0.15),
                   (0.365, 0.245), (0.358, 0.256), (0.350, 0.245), (0.318, 0.155), (0.235, 0.075),
                   (0.12, 0.040), (0.0, 0.035)], 160)
    vase = spline([(0.0, 0.01), (0.12, 0.0), (0.14, 0.02), (0.225, 0.16), (0.245, 0.30),
                   (0.19, 0.45), (0.095, 0.57), (0.08, 0.64), (0.115, 0.715), (0.112, 0.725),
                   (0.10, 0.715), (0.065, 0.64), (0.08, 0.57), (0.17, 0.45), (0.20, 0.30),
                   (0.12, 0.05), (0.0, 0.04)], 240)
    # fmt: on
    return bowl, vase


def table_parts():
    """The table: an exactly flat top, and a turned edge with an underside."""
    inner = TABLE_RADIUS - 0.03
    vertices, normals, uv, faces = lathe([(0.0, 0.0), (inner, 0.0)], 256)
    normals[:] = (0.0, 0.0, 1.0)
    uv = vertices[:, :2] / (2 * TABLE_RADIUS) + 0.5
    top = move((vertices, normals, uv, faces), (0, 0, TABLE_Z))
    t = np.linspace(np.pi / 2, -np.pi / 2, 33)
    edge = np.stack([inner + 0.03 * np.cos(t), -0.03 + 0.03 * np.sin(t)], 1)
    knots = [(inner, -0.06), (0.9, -0.065), (0.55, -0.085), (0.3, -0.10), (0.0, -0.10)]
    base = [move(lathe(p, 256), (0, 0, TABLE_Z)) for p in (edge, spline(knots))]
    return top, base


def armillary_parts():
    """An armillary sphere of thin copper rings on a stand (it stands on z = 0)."""
    # fmt: off
    foot = spline([(0.13, 0.0), (0.13, 0.015), (0.06, 0.03), (0.018, 0.06), (0.012, 0.12),
                   (0.02, 0.14), (0.012, 0.16)])
    # fmt: on
    centre, major = np.array([0.0, 0.0, 0.43]), 0.26
    tilt = rotation("y", 23.4)
    rings = [
        move(torus(major + 0.02, 0.011), centre, rotation("x", 90)),
        move(torus(major, 0.009), centre, tilt),
        move(torus(major, 0.009), centre, tilt @ rotation("x", 90) @ rotation("y", 45)),
        move(torus(major, 0.009), centre, tilt @ rotation("x", 90) @ rotation("y", -45)),
        move(torus(0.195, 0.007), centre + tilt @ (0, 0, 0.17), tilt),
        move(torus(0.195, 0.007), centre - tilt @ (0, 0, 0.17), tilt),
    ]
    axis = tilt @ np.array([0.0, 0.0, 0.33])
    rod = tube(np.linspace(centre - axis, centre + axis, 12), 0.006)
    return [lathe(foot), rod, *rings], centre


def build_parts():
    """Every part of the scene as (object name, Mitsuba shape)."""
    parts = []

    def add(name, meshes, bsdf):
        meshes = meshes if isinstance(meshes, list) else [meshes]
        parts.extend((name, to_mitsuba(f"{name}_{len(parts)}", m, bsdf)) for m in meshes)

    def add_spheres(name, spheres, bsdf):
        for centre, radius in spheres:
            sphere = {"type": "sphere", "center": list(map(float, centre)), "radius": radius}
            parts.append((name, mi.load_dict({**sphere, "bsdf": bsdf})))

    top, base = table_parts()
    add("table_top", top, glazed(table_picture(), 0.16))
    add("table_base", base, glazed("#7a4a2e", 0.2))
    add_spheres("gold_ball", SPHERES["gold_ball"], metal("Au", 0.05))
    add_spheres("glass_ball", SPHERES["glass_ball"], tinted_glass("#cfeee2"))
    add_spheres("orange", SPHERES["orange"], glazed("#ef8a1d", 0.25))
    add_spheres("limes", SPHERES["limes"], glazed("#9dbb2f", 0.22))
    bowl, vase = ceramic_profiles()
    add("bowl", move(lathe(bowl, 192), BOWL_AT), glazed("#f4f0ea", 0.06))
    add("vase", move(lathe(vase, 192), VASE_AT), glazed(vase_picture(), 0.06))
    paths = stem_paths()
    add("stems", [tube(path, 0.009) for path in paths], matte("#6d8a3c"))
    add_spheres("flowers", [(path[-1], 0.075) for path in paths], matte("#f0c02e"))

    t = np.linspace(0, np.pi, 49)
    half_circle = np.stack([np.cos(t), np.sin(t)], 1)
    inner = np.concatenate([[(0.19, 0)], (0.19 * half_circle + (0, 0.42)), [(-0.19, 0)]])
    outer = np.concatenate([[(0.33, 0)], (0.33 * half_circle + (0, 0.42)), [(-0.33, 0)]])
    arch = prism([inner, outer], 0.24)
    add("arch", move(arch, ARCH_AT, rotation("z", ARCH_YAW)), matte("#dd8f78"))
    cone = lathe([(0.12, 0.0), (0.115, 0.004), (0.003, 0.40), (0.0, 0.401)])
    add("cone", move(cone, CONE_AT), glazed("#c43a3a", 0.12))

    x, y, z = BOOKS_AT
    for yaw, base_z, size, cover, print_ in (
        (12.0, 0.0, (0.44, 0.60, 0.09), "#a63a3f", None),
        (-9.0, 0.09, (0.40, 0.54, 0.08), "#22355c", cover_picture()),
    ):
        width, depth, height = size
        turn = rotation("z", yaw)
        at = np.array([x, y, z + base_z])
        add("books", move(box(width, depth, 0.012), at, turn), glazed(cover, 0.25))
        lid = move(box(width, depth, 0.012), at + (0, 0, height - 0.012), turn)
        add("books", lid, glazed(cover if print_ is None else print_, 0.25))
        spine = move(box(0.012, depth, height - 0.024), (-width / 2 + 0.006, 0, 0.012))
        add("books", move(spine, at, turn), glazed(cover, 0.25))
        pages = move(box(width - 0.036, depth - 0.036, height - 0.024), (0, 0, 0.012))
        add("books", move(pages, at, turn), matte("#efe6d2"))

    rings, centre = armillary_parts()
    at = np.array([x, y, z + BOOKS_HEIGHT])
    add("armillary", [move(m, at, rotation("z", 35)) for m in rings], metal("Cu", 0.12))
    add_spheres("armillary", [(at + centre, 0.07)], glazed("#2e59a8", 0.08))
    return parts


def build_scene():
    """The Mitsuba scene and the object id of each of its shapes."""
    parts = build_parts()
    scene = {f"part_{k:03d}": shape for k, (_, shape) in enumerate(parts)}
    scene["environment"] = {
        "type": "envmap",
        "bitmap": mi.Bitmap(studio_environment()),
        "to_world": mi.ScalarTransform4f().rotate([1, 0, 0], 90),  # Mitsuba's has y up
    }
    scene = mi.load_dict({"type": "scene", **scene}, optimize=False)
    ids = {}
    for name, shape in parts:
        index = dr.reinterpret_array(mi.UInt32, mi.ShapePtr(shape)).numpy()[0]
        ids[int(index)] = OBJECTS.index(name) + 1
    return scene, ids
