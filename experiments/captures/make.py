"""Captures of which all is known, written as transforms.json.

    python experiments/captures/make.py --out scenes
    python experiments/captures/make.py --out scenes_with_points --points
    python experiments/captures/make.py --out scenes --only drone,corridor

A room: 72 cameras inside it look at its walls, a table and a ball, which lie from 0.5 to 6 units away. A
terrace: 72 cameras on it look outwards, at railings near by, a ground that goes to the horizon, hills far
away, and a sky. A model house on a table, seen by 49 cameras from one side: `house` before plain white,
`table` on a white table top that ends in the dark. A row: 40 cameras along a line look across at a street
front. A drone: 48 cameras in rows above a village look down. A corridor: 60 cameras walk along it and
look ahead. A yard: 64 cameras around a table in it, with walls near and hills far away. A turntable: the
model house turns before one camera at two heights, and before a backdrop that does not turn with it. Each
surface has the colours of its places, so that but for that backdrop all pictures agree. With --points,
places of what each picture shows are written beside them, as structure from motion would leave them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from jaxnerf.exports.ply import write_ply

SIDE = 160
# The cameras of each, and their field of view in degrees.
VIEWS = {
    "room": (72, 75.0), "terrace": (72, 75.0), "house": (49, 40.0), "table": (49, 40.0),
    "row": (40, 60.0), "drone": (48, 60.0), "corridor": (60, 70.0), "yard": (64, 60.0),
    "turntable": (48, 40.0),
}  # fmt: skip
POINTS_A_VIEW = 40
FAR = 1e6


def pattern(points: np.ndarray, scale: float, colour: tuple[float, float, float]) -> np.ndarray:
    """Colours in [0, 1] of places: waves of several lengths, of one tint."""
    waves = np.zeros(len(points))
    for k, frequency, phase in (
        ((1, 2, 3), 1.0, 0.3),
        ((-2, 1, 1), 2.3, 1.7),
        ((3, -1, 2), 4.1, 4.0),
    ):
        waves += np.sin(points @ np.array(k) * scale * frequency + phase)
    return np.clip(np.array(colour) * (1.0 + 0.16 * waves[:, None]), 0.0, 1.0)


class View:
    """Rays, and the nearest of the surfaces that they were shown."""

    def __init__(self, pose: np.ndarray, local: np.ndarray):
        """Rays of a camera, by its camera-to-world and their directions in its axes."""
        self.origin, self.directions, self.local = pose[:3, 3], local @ pose[:3, :3].T, local
        self.t = np.full(len(local), FAR)
        self.colour = np.zeros((len(local), 3))

    def show(self, t: np.ndarray, scale: float, colour: tuple[float, float, float]) -> None:
        """A surface that the rays meet at t, where that is positive and nearer than others."""
        with np.errstate(invalid="ignore"):
            nearer = (t > 1e-6) & (t < self.t)
        points = self.origin + t[nearer, None] * self.directions[nearer]
        self.colour[nearer] = pattern(points, scale, colour)
        self.t[nearer] = t[nearer]

    def box(self, low, high, scale, colour, inside: bool = False) -> None:
        """A box, seen from outside or from inside."""
        with np.errstate(divide="ignore", invalid="ignore"):
            a = (np.array(low) - self.origin) / self.directions
            b = (np.array(high) - self.origin) / self.directions
        enter, leave = np.minimum(a, b).max(axis=-1), np.maximum(a, b).min(axis=-1)
        t = leave if inside else np.where(enter < leave, enter, np.nan)
        self.show(t, scale, colour)

    def ball(self, centre, radius, scale, colour) -> None:
        """A ball, seen from outside."""
        offset = self.origin - np.array(centre)
        a, b = (self.directions**2).sum(-1), self.directions @ offset
        inside = b * b - a * (offset @ offset - radius**2)
        self.show(
            np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, np.nan), scale, colour
        )

    def ground(self, scale, colour) -> None:
        """The plane z = 0."""
        with np.errstate(divide="ignore"):
            self.show(-self.origin[2] / self.directions[:, 2], scale, colour)


def room(view: View) -> None:
    """What is in the room, which is 6 by 5 by 2.6 units."""
    view.box((-3, -2.5, 0), (3, 2.5, 2.6), 2.5, (0.62, 0.55, 0.45), inside=True)
    view.box((-0.7, -0.5, 0.68), (0.7, 0.5, 0.74), 6.0, (0.45, 0.25, 0.15))
    for x in (-0.65, 0.6):
        for y in (-0.45, 0.4):
            view.box((x, y, 0), (x + 0.06, y + 0.06, 0.68), 9.0, (0.3, 0.2, 0.15))
    view.ball((0.2, 0.1, 0.94), 0.2, 14.0, (0.3, 0.45, 0.7))
    view.box((-2.98, -1.2, 0), (-2.4, 1.0, 1.9), 4.0, (0.35, 0.5, 0.4))


def terrace(view: View) -> None:
    """What is seen from the terrace, which is a round of 3 units."""
    sky = view.directions / np.linalg.norm(view.directions, axis=-1, keepdims=True)
    view.colour[:] = pattern(sky, 3.0, (0.55, 0.68, 0.85))
    view.ground(0.35, (0.4, 0.5, 0.3))
    for k in range(9):
        a = 0.7 * k
        view.ball(
            (60 * np.cos(a), 60 * np.sin(a), -8.0), 17.0 + 3 * (k % 3), 0.25, (0.35, 0.42, 0.3)
        )
    for k in range(16):
        x, y = 3.4 * np.cos(k * np.pi / 8), 3.4 * np.sin(k * np.pi / 8)
        view.box((x - 0.05, y - 0.05, 0), (x + 0.05, y + 0.05, 1.1), 8.0, (0.7, 0.65, 0.6))
    for k in range(5):
        a = 1.3 * k + 0.4
        view.box((9 * np.cos(a) - 1, 9 * np.sin(a) - 1, 0), (9 * np.cos(a) + 1, 9 * np.sin(a) + 1, 3),
                 1.5, (0.6, 0.4, 0.3))  # fmt: skip


def house(view: View) -> None:
    """A model house, which is 1.2 by 0.9 units, before plain white."""
    view.colour[:] = 1.0
    view.box((-0.6, -0.45, 0), (0.6, 0.45, 0.5), 9.0, (0.7, 0.45, 0.35))
    for k in range(8):  # a roof of steps
        half, floor = 0.53 * (1.0 - k / 8.0), 0.5 + 0.05 * k
        view.box((-0.68, -half, floor), (0.68, half, floor + 0.05), 14.0, (0.55, 0.2, 0.15))
    view.box((0.25, 0.1, 0.5), (0.4, 0.25, 1.1), 20.0, (0.4, 0.3, 0.3))
    for x in (-0.4, -0.05, 0.3):
        view.box((x, -0.47, 0.15), (x + 0.16, -0.44, 0.38), 18.0, (0.3, 0.45, 0.6))
    view.ball((0.85, -0.5, 0.2), 0.2, 16.0, (0.3, 0.5, 0.25))


def table(view: View) -> None:
    """The same on a white table top, brighter towards its middle, in a dark room."""
    house(view)
    missed = view.t == FAR
    view.colour[missed] = 0.05
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -view.origin[2] / view.directions[:, 2]
        places = view.origin + t[:, None] * view.directions
    away = np.hypot(places[:, 0], places[:, 1])
    top = (t > 1e-6) & (t < view.t) & (np.abs(places[:, :2]) < 1.6).all(axis=-1)
    view.colour[top] = (0.95 - 0.12 * away[top] ** 2)[:, None]
    view.t[top] = t[top]


def row(view: View) -> None:
    """A street front of 16 units, 4 units away, with a pavement, and trees before it."""
    view.colour[:] = pattern(
        view.directions / np.linalg.norm(view.directions, axis=-1, keepdims=True), 3.0, (0.6, 0.7, 0.85)
    )  # fmt: skip
    view.ground(0.8, (0.45, 0.44, 0.42))
    for k in range(8):
        x, high = 2.0 * k - 8.0, 3.0 + 0.5 * np.sin(2.1 * k)
        tint = (0.5 + 0.2 * np.sin(k), 0.45, 0.4 + 0.2 * np.cos(1.7 * k))
        view.box((x, 4.0, 0), (x + 1.96, 7.0, high), 2.2, tint)
        view.box((x + 0.7, 3.9, 0), (x + 1.3, 4.0, 1.1), 6.0, (0.3, 0.2, 0.15))
    for k in range(6):
        x = 2.7 * k - 6.5
        view.box((x - 0.06, 2.4, 0), (x + 0.06, 2.52, 1.4), 9.0, (0.35, 0.25, 0.2))
        view.ball((x, 2.46, 1.8), 0.5, 5.0, (0.3, 0.5, 0.25))


def drone(view: View) -> None:
    """A village of 20 by 24 units and its fields."""
    random = np.random.default_rng(5)
    view.ground(0.6, (0.42, 0.48, 0.3))
    for k in range(40):
        x, y = random.uniform(-10, 10), random.uniform(-12, 12)
        wide, deep, high = random.uniform(0.5, 1.3, 3)
        if k % 3:
            tint = tuple(random.uniform(0.35, 0.75, 3))
            view.box((x - wide, y - deep, 0), (x + wide, y + deep, 1.4 * high), 2.5, tint)
        else:
            view.ball((x, y, 0.6 * high), 0.6 * high, 4.0, (0.25, 0.42, 0.22))


def corridor(view: View) -> None:
    """A corridor of 2.4 by 26 by 2.6 units, with frames and things along its walls."""
    random = np.random.default_rng(6)
    view.box((-1.2, -1, 0), (1.2, 25, 2.6), 2.0, (0.62, 0.58, 0.5), inside=True)
    for k in range(8):
        y = 1.5 + 3.0 * k
        for x in (-1.2, 1.05):
            view.box((x, y, 0), (x + 0.15, y + 0.25, 2.6), 5.0, (0.45, 0.4, 0.38))
        side, high = random.choice([-1.15, 0.6]), random.uniform(0.5, 1.5)
        tint = tuple(random.uniform(0.25, 0.7, 3))
        view.box((side, y + 1.0, 0), (side + 0.55, y + 1.9, high), 4.0, tint)


def yard(view: View) -> None:
    """A table with things on it, between two walls of a yard; beyond them hills and a sky."""
    sky = view.directions / np.linalg.norm(view.directions, axis=-1, keepdims=True)
    view.colour[:] = pattern(sky, 3.0, (0.55, 0.68, 0.85))
    view.ground(0.9, (0.45, 0.43, 0.38))
    view.box((-0.6, -0.6, 0.7), (0.6, 0.6, 0.76), 6.0, (0.5, 0.35, 0.22))
    view.box((-0.12, -0.12, 0), (0.12, 0.12, 0.7), 9.0, (0.35, 0.25, 0.2))
    view.ball((0.15, 0.1, 0.98), 0.22, 12.0, (0.65, 0.35, 0.3))
    view.box((-0.4, -0.3, 0.76), (-0.15, 0.1, 1.1), 10.0, (0.3, 0.45, 0.6))
    view.box((-7, 6, 0), (7, 6.3, 2.2), 2.0, (0.6, 0.5, 0.42))
    view.box((-7.3, -5, 0), (-7, 6, 2.2), 2.0, (0.55, 0.52, 0.48))
    for k in range(9):
        a = 0.7 * k
        centre = (50 * np.cos(a), 50 * np.sin(a), -6.0)
        view.ball(centre, 13.0 + 3 * (k % 3), 0.25, (0.33, 0.42, 0.3))
    for k in range(6):
        a = 1.05 * k + 0.3
        view.ball((4.6 * np.cos(a), 4.6 * np.sin(a), 0.7), 0.7, 4.0, (0.25, 0.45, 0.22))


def turntable(view: View) -> None:
    """The model house on a disc, before a wall that is lit from one side and stands by the camera."""
    house(view)
    missed = view.t == FAR
    across, up = view.local[missed, 0], view.local[missed, 1]
    view.colour[missed] = (0.5 + 0.5 * across + 0.3 * up)[:, None] * np.array([0.9, 0.95, 1.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -view.origin[2] / view.directions[:, 2]
        places = view.origin + t[:, None] * view.directions
    disc = (t > 1e-6) & (t < view.t) & (np.hypot(places[:, 0], places[:, 1]) < 1.1)
    view.show(np.where(disc, t, np.nan), 8.0, (0.4, 0.4, 0.42))


SCENES = {
    "room": room, "terrace": terrace, "house": house, "table": table, "row": row, "drone": drone,
    "corridor": corridor, "yard": yard, "turntable": turntable,
}  # fmt: skip


def look(eye: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Camera-to-world, with OpenGL axes, upright."""
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, eye], axis=-1)
    return pose


def poses(name: str) -> list[np.ndarray]:
    """Camera-to-world, with OpenGL axes."""
    random, found, count = np.random.default_rng(0), [], VIEWS[name][0]
    if name in ("house", "table"):
        # Seven arcs of seven, of 110 degrees, from 12 to 54 degrees above.
        for k in range(count):
            turn, up = np.deg2rad([-145.0 + 110.0 * (k % 7) / 6.0, 12.0 + 7.0 * (k // 7)])
            eye = np.array([np.cos(turn) * np.cos(up), np.sin(turn) * np.cos(up), np.sin(up)])
            found.append(look(3.2 * eye + [0.0, 0.0, 0.35], eye + random.normal(0.0, 0.02, 3)))
        return found
    if name == "row":
        for k in range(count):
            eye = np.array([-6.0 + 12.0 * k / (count - 1), 0.0, 1.5]) + random.normal(0.0, 0.05, 3)
            found.append(
                look(eye, np.array([random.normal(0, 0.15), -1.0, random.normal(0, 0.05)]))
            )
        return found
    if name == "drone":
        # Six rows of eight, flown to and fro.
        for k in range(count):
            along = k % 8 if k // 8 % 2 == 0 else 7 - k % 8
            eye = np.array([-7.5 + 3.0 * (k // 8), -9.0 + 2.6 * along, 9.0])
            tilt = np.array([0.0, -0.15, 1.0]) + random.normal(0.0, 0.04, 3)
            found.append(look(eye + random.normal(0.0, 0.1, 3), tilt))
        return found
    if name == "corridor":
        for k in range(count):
            eye = np.array([0.0, 18.0 * k / (count - 1), 1.5]) + random.normal(0.0, 0.06, 3)
            back = np.array([random.normal(0.0, 0.12), -1.0, random.normal(0.05, 0.05)])
            found.append(look(eye, back))
        return found
    if name in ("yard", "turntable"):
        for k in range(count):
            turn, high = 4.0 * np.pi * k / count, k >= count // 2
            if name == "yard":
                eye = np.array([np.cos(turn), np.sin(turn), 0.0]) * random.uniform(1.7, 2.4)
                eye[2] = (1.9 if high else 1.2) + random.uniform(-0.1, 0.1)
                found.append(look(eye, eye - [0.0, 0.0, 0.85] + random.normal(0.0, 0.05, 3)))
                continue
            up = np.deg2rad(40.0 if high else 15.0)
            eye = np.array([np.cos(turn) * np.cos(up), np.sin(turn) * np.cos(up), np.sin(up)])
            found.append(look(3.6 * eye + [0.0, 0.0, 0.35], eye))
        return found
    for k in range(count):
        angle = 2.0 * np.pi * k / count * (1 if name == "room" else 3)
        radius = random.uniform(1.2, 1.9) if name == "room" else random.uniform(0.5, 2.4)
        eye = np.array([radius * np.cos(angle), radius * np.sin(angle), random.uniform(1.2, 1.8)])
        if name == "room":  # across the room, at its middle or past it
            back = eye - np.array([*random.uniform(-1.0, 1.0, 2), random.uniform(0.5, 1.3)])
        else:
            turn = angle + random.uniform(-0.4, 0.4)
            back = -np.array([np.cos(turn), np.sin(turn), random.uniform(-0.25, 0.1)])
        found.append(look(eye, back))
    return found


def main() -> None:
    """Write them; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--points", action="store_true", help="write points of the surfaces too")
    parser.add_argument("--only", default=",".join(SCENES), help="names, with commas between")
    options = parser.parse_args()
    fine = (np.arange(2 * SIDE) + 0.5) / 2.0 - 0.5 * SIDE
    for name in options.only.split(","):
        scene, focal = SCENES[name], 0.5 * SIDE / np.tan(0.5 * np.deg2rad(VIEWS[name][1]))
        local = np.stack(np.broadcast_arrays(fine[None] / focal, -fine[:, None] / focal, -1.0), -1)
        folder = options.out / name
        (folder / "images").mkdir(parents=True, exist_ok=True)
        frames, points, random = [], [], np.random.default_rng(1)
        for index, pose in enumerate(poses(name)):
            view = View(pose, local.reshape(-1, 3))
            scene(view)
            pixels = view.colour.reshape(SIDE, 2, SIDE, 2, 3).mean(axis=(1, 3))
            file = f"images/{index:03d}.png"
            Image.fromarray(np.rint(255 * pixels).astype(np.uint8)).save(folder / file)
            frames.append({"file_path": file, "transform_matrix": pose.tolist()})
            seen = random.permutation(np.flatnonzero(view.t < FAR))[:POINTS_A_VIEW]
            points.append(view.origin + view.t[seen, None] * view.directions[seen])
        text = {"fl_x": focal, "fl_y": focal, "w": SIDE, "h": SIDE, "frames": frames}
        if options.points:
            text |= {"camera_model": "PINHOLE", "ply_file_path": "points.ply"}
            kinds = np.dtype([(axis, "f4") for axis in "xyz"])
            shown = np.concatenate(points).astype(np.float32)
            write_ply(folder / "points.ply", shown.view(kinds)[:, 0])
        (folder / "transforms.json").write_text(json.dumps(text))


if __name__ == "__main__":
    main()
