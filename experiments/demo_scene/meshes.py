"""Triangle meshes made with numpy: surfaces of revolution, tori, tubes, extrusions and boxes.

A mesh is a tuple (vertices, normals, uv, faces) of arrays; flat-shaded ones have no normals (None).
"""

import math

import numpy as np


def rotation(axis, degrees):
    """The 3x3 matrix of a rotation about the axis 'x', 'y' or 'z'."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix = np.eye(3)
    matrix[j, j], matrix[j, k], matrix[k, j], matrix[k, k] = c, -s, s, c
    return matrix


def grid_faces(rows, columns):
    """Triangles over a rows x columns grid of vertices in row-major order."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = (i * columns + j).ravel()
    b, c, d = a + 1, a + columns, a + columns + 1
    return np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def grid_mesh(points):
    """A smooth mesh (vertices, normals, uv, faces) through a (rows, columns, 3) grid of points.

    The columns are taken to close up (first and last column are the same points).
    """
    along = np.gradient(points, axis=0)
    around = np.empty_like(points)
    around[:, 1:-1] = points[:, 2:] - points[:, :-2]
    around[:, 0] = around[:, -1] = points[:, 1] - points[:, -2]
    normals = np.cross(around, along)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 0.0, 1.0])
    rows, columns = points.shape[:2]
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    uv = np.stack([u, v], -1)
    faces = grid_faces(rows, columns)
    return points.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces


def lathe(profile, segments=128):
    """The surface of revolution about z of a profile, a list of (radius, z)."""
    radius, z = np.asarray(profile, float).T
    phi = np.linspace(0, 2 * np.pi, segments + 1)
    points = np.stack(
        [
            radius[:, None] * np.cos(phi),
            radius[:, None] * np.sin(phi),
            np.repeat(z[:, None], segments + 1, 1),
        ],
        -1,
    )
    return grid_mesh(points)


def spline(knots, count=96):
    """A Catmull-Rom curve through the knots, sampled at ``count`` points."""
    knots = np.asarray(knots, float)
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = np.linspace(0, len(knots) - 1, count)
    i = np.minimum(t.astype(int), len(knots) - 2)
    t = (t - i)[:, None]
    p0, p1, p2, p3 = padded[i], padded[i + 1], padded[i + 2], padded[i + 3]
    return 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )


def torus(major, minor):
    """A torus about the z axis."""
    t = np.linspace(0, 2 * np.pi, 25)
    return lathe(np.stack([major + minor * np.cos(t), minor * np.sin(t)], 1), 160)


def tube(path, radius):
    """A thin round tube along a path of points that is nowhere parallel to x."""
    path = np.asarray(path, float)
    tangent = np.gradient(path, axis=0)
    side = np.cross(tangent, [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(side, tangent)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    phi = np.linspace(0, 2 * np.pi, 17)[None, :, None]
    ring = np.cos(phi) * side[:, None] + np.sin(phi) * other[:, None]
    return grid_mesh(path[:, None] + radius * ring)


def prism(outline, depth):
    """A flat-shaded extrusion, from y = -depth/2 to depth/2, of quads over (x, z) outlines.

    ``outline`` has shape (2, n, 2): two curves, between which the front and back faces lie.
    """
    inner, outer = np.asarray(outline, float)
    loop = np.concatenate([inner, outer[::-1], inner[:1]])

    def lift(xz, y):
        return np.stack([xz[..., 0], np.full(xz.shape[:-1], y), xz[..., 1]], -1)

    quads = []
    for y in (-depth / 2, depth / 2):
        p, q = lift(inner, y), lift(outer, y)
        quads += [np.stack([p[:-1], q[:-1], q[1:], p[1:]], 1)]
    front, back = lift(loop, -depth / 2), lift(loop, depth / 2)
    quads += [np.stack([front[:-1], back[:-1], back[1:], front[1:]], 1)]
    quads = np.concatenate(quads)
    uv = np.tile([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], (len(quads), 1))
    base = 4 * np.arange(len(quads))[:, None]
    faces = np.concatenate([base + [0, 1, 2], base + [0, 2, 3]])
    return quads.reshape(-1, 3), None, uv, faces


def box(size_x, size_y, size_z):
    """A box standing on z = 0; its top and bottom carry the texture from (0, 0) to (1, 1)."""
    x, y = size_x / 2, size_y / 2
    flat = np.array([[[-x, -y], [x, -y]], [[-x, y], [x, y]]])
    vertices, _, uv, faces = prism(flat, size_z)
    vertices = np.stack([vertices[:, 0], vertices[:, 2], vertices[:, 1] + size_z / 2], 1)
    return vertices, None, uv, faces


def move(mesh, offset=(0, 0, 0), turn=None):
    """The mesh turned by a rotation matrix about the origin and then shifted."""
    vertices, normals, uv, faces = mesh
    turn = np.eye(3) if turn is None else turn
    normals = None if normals is None else normals @ turn.T
    return vertices @ turn.T + np.asarray(offset), normals, uv, faces
