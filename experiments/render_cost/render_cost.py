"""What generality costs: `jaxnerf.render_rays` beside loops of the same arithmetic, written by hand.

    python experiments/render_cost/render_cost.py

Prints a table, and leaves results.json in this file's folder. The field is analytic and cheap, so that
what is around it counts. Forms are timed in turns, one call each, and compared by their medians: what
else the machine does falls on all of them alike. Processor time is told beside time, since it does not
count how long others had the processor.
"""

import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnerf import Camera, Occupancy, OccupancySampler, Rays, Stratified, cast_rays, render_rays
from jaxnerf.kernels.memory import keep_freed

RAYS, SAMPLES = 16384, 64
NEAR, FAR = 2.5, 5.5
SAME = "by hand, by a product, with intervals"


@dataclasses.dataclass(frozen=True)
class Ball:
    """A soft ball of a colour that depends on the place and on the direction."""

    def init(self, key):
        return {"radius": jnp.float32(0.8), "peak": jnp.float32(6.0), "tint": jnp.full(3, 0.3)}

    def density(self, params, positions):
        away = jnp.sqrt(jnp.sum(positions * positions, axis=-1) + 1e-6)
        return params["peak"] * jax.nn.sigmoid(12.0 * (params["radius"] - away)), positions

    def colour(self, params, features, view_directions):
        return jax.nn.sigmoid(2.0 * features + params["tint"] * view_directions)


def by_hand(params, rays: Rays, by_a_product: bool = False, with_intervals: bool = False):
    """What `render_rays` does with `Stratified`, as one would write it for this field alone.

    Args:
      params, rays: of the field; to render.
      by_a_product: whether the depth before each sample is a product with a triangle of ones.
      with_intervals: whether samples lie in the middle of intervals that could be of any lengths, on rays
        that may have no end, as those of `Stratified` do.
    """
    field = Ball()
    if with_intervals:
        t0, t1 = intervals(rays)
        t, step = 0.5 * (t0 + t1), t1 - t0
    else:
        step = ((rays.far - rays.near) / SAMPLES)[:, None]
        t = rays.near[:, None] + step * (jnp.arange(SAMPLES) + 0.5)
    positions = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
    density, features = field.density(params, positions)
    depth = density * step * jnp.linalg.norm(rays.directions, axis=-1)[:, None]
    if by_a_product:
        before = depth @ jnp.triu(jnp.ones((SAMPLES, SAMPLES)), 1)
    else:
        before = jnp.cumsum(depth, axis=-1) - depth
    weights = jnp.exp(-before) * -jnp.expm1(-depth)
    colours = field.colour(params, features, rays.view_directions[:, None])
    opacity = jnp.sum(weights, axis=-1)
    colour = jnp.sum(weights[..., None] * colours, axis=-2)
    return colour + (1.0 - opacity)[:, None]


def intervals(rays: Rays):
    """Even in depth up to a far, and without one even in disparity, from a unit before near."""
    u = jnp.linspace(0.0, 1.0, SAMPLES + 1)
    near, far = rays.near[:, None], rays.far[:, None]
    with_end = jnp.where(u < 1.0, near + u * (far - near), far)
    unit = jnp.where(near > 0.0, near, 1.0)
    unbounded = near + unit * (1.0 / (1.0 - u * (1.0 - 1e-4)) - 1.0)
    t = jnp.where(jnp.isinf(far), unbounded, with_end)
    return t[:, :-1], t[:, 1:]


def by_a_loop(params, rays: Rays):
    """The same, a sample of all rays after the other."""
    field = Ball()
    step = (rays.far - rays.near) / SAMPLES
    length = step * jnp.linalg.norm(rays.directions, axis=-1)

    def body(carry, index):
        light, colour = carry
        positions = rays.origins + (rays.near + step * (index + 0.5))[:, None] * rays.directions
        density, features = field.density(params, positions)
        after = light * jnp.exp(-density * length)
        seen = field.colour(params, features, rays.view_directions)
        return (after, colour + (light - after)[:, None] * seen), None

    start = jnp.ones(len(rays.near)), jnp.zeros((len(rays.near), 3))
    (light, colour), _ = jax.lax.scan(body, start, jnp.arange(SAMPLES, dtype=jnp.float32))
    return colour + light[:, None]


def dense(params, rays: Rays):
    """By `render_rays`, of evenly placed samples."""
    return render_rays(Ball(), params, rays, Stratified(SAMPLES)).colour


def packed(sampler: OccupancySampler, params, rays: Rays):
    """By `render_rays`, of an occupancy's samples."""
    return render_rays(Ball(), params, rays, sampler).colour


def forms() -> dict:
    """Each way to render, and whether its gradient is taken too."""
    cells = np.ones((16,) * 3, bool)
    grid = Occupancy.of(cells, np.full(3, -1.6, np.float32), 0.2, (FAR - NEAR) / SAMPLES)
    walk = OccupancySampler(grid, samples=128, max_steps=256, mean_samples=64.0)
    ways = {
        "by hand": by_hand,
        "by hand, by a product": lambda params, rays: by_hand(params, rays, by_a_product=True),
        SAME: lambda params, rays: by_hand(params, rays, by_a_product=True, with_intervals=True),
        "by hand, sample after sample": by_a_loop,
        "render_rays, Stratified": dense,
        "render_rays, OccupancySampler": lambda params, rays: packed(walk, params, rays),
    }

    def slope(render):
        return jax.grad(lambda params, rays: jnp.mean((render(params, rays) - 0.4) ** 2))

    forward = {name: jax.jit(way) for name, way in ways.items()}
    backward = {f"gradient, {name}": jax.jit(slope(way)) for name, way in ways.items()}
    eager = {"without jit, by hand": by_hand, "without jit, render_rays, Stratified": dense}
    return forward | backward | eager


def rays_of_a_picture() -> Rays:
    """Rays of random pixels."""
    camera = Camera.look_at((0.0, -4.0, 1.0), width=256, height=256, field_of_view=35.0)
    pixels = np.random.default_rng(0).uniform(0, 256, (RAYS, 2))
    return cast_rays(camera, jnp.asarray(pixels, jnp.float32), NEAR, FAR)


def medians(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of each form, the median over rounds in each of which every form runs once.

    Returns:
      Of time, and of processor time.
    """
    rays, params, ways = rays_of_a_picture(), Ball().init(None), forms()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        jax.block_until_ready(way(params, rays))
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.perf_counter(), time.process_time()
            jax.block_until_ready(way(params, rays))
            seconds[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    both = {name: 1e3 * np.median(each, axis=0) for name, each in seconds.items()}
    wall, processor = ({name: float(each[i]) for name, each in both.items()} for i in (0, 1))
    return wall, processor


def differences() -> dict[str, float]:
    """By how much each form's colours differ from those by hand, at most."""
    rays, params, ways = rays_of_a_picture(), Ball().init(None), forms()
    truth = ways["by hand"](params, rays)
    names = [name for name in ways if not name.startswith("gradient")]
    return {name: float(jnp.abs(ways[name](params, rays) - truth).max()) for name in names}


def main() -> None:
    """Measure, print and write."""
    keep_freed()  # Else it is chance which forms have their memory mapped anew, page by page.
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    rounds = parser.parse_args().rounds
    (times, processor), away = medians(rounds), differences()
    prefixes = {"forward": "", "gradient": "gradient, ", "without jit": "without jit, "}

    def ratios(of: dict[str, float], to: str = "by hand") -> dict[str, float]:
        return {
            name: round(of[f"{prefix}render_rays, Stratified"] / of[f"{prefix}{to}"], 3)
            for name, prefix in prefixes.items()
            if f"{prefix}{to}" in of
        }

    result = {
        "rays": RAYS, "samples": SAMPLES, "rounds": rounds, "jax": jax.__version__,
        "machine": platform.machine(), "devices": [str(device) for device in jax.devices()],
        "milliseconds": {name: round(value, 2) for name, value in times.items()},
        "processor_milliseconds": {name: round(value, 2) for name, value in processor.items()},
        "ratio_to_by_hand": ratios(times),
        "ratio_of_processor_time": ratios(processor),
        "ratio_to_the_same_arithmetic": ratios(times, SAME),
        "ratio_of_processor_time_to_the_same_arithmetic": ratios(processor, SAME),
        "largest_difference_of_colours": {name: float(f"{x:.2g}") for name, x in away.items()},
    }  # fmt: skip
    Path(__file__).with_name("results.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, value in times.items():
        print(f"{name:45} {value:8.2f} ms")
    print(json.dumps({name: result[name] for name in result if name.startswith("ratio")}, indent=2))


if __name__ == "__main__":
    main()
