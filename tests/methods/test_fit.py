"""Fields of one's own: trained by `fit`, with an occupancy that is kept up to date, resumed, loaded."""

import dataclasses
import functools
import runpy
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ball import CENTRE, RADIUS, Sphere, photographs
from documents import as_users_have_it

from jaxnerf import (
    Config,
    Scene,
    fit,
    load_run,
    preset,
)
from jaxnerf.config import ConfigError, override
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.contraction import BoxSpace, SphereContraction
from jaxnerf.evaluation import blend, psnr
from jaxnerf.fields.warped import WarpedField
from jaxnerf.methods import first_state, trainer_of
from jaxnerf.methods import occupied as occupied_method
from jaxnerf.runs.files import RunError
from jaxnerf.sampling.occupancy import occupied
from jaxnerf.training import PhotometricLoss, keep_occupancy, sharding
from jaxnerf.training.keep_occupancy import (
    KeepOccupancy,
    OccupancyConfig,
    full_occupancy,
)
from jaxnerf.training.loop import train
from jaxnerf.training.settings import TrainingConfig
from jaxnerf.training.state import begin
from jaxnerf.training.strategy import Strategy
from jaxnerf.training.trainer import axes_on, gradients_of

PROGRAMS = Path(__file__).parents[2] / "docs" / "programs"
SMALL = {"training__rays_per_batch": 256, "occupancy__cells": 16, "occupancy__steps": 48}


@pytest.fixture(scope="module")
def scene() -> Scene:
    split = photographs()
    return Scene("ball", Path("ball"), "test", {"train": split}, 1.0, 5.0)


def test_a_field_with_no_more_than_three_functions_finds_the_ball(scene, tmp_path):
    out, seen = tmp_path / "run", []
    run = fit(Sphere(), scene, out, steps=300, report=lambda p: seen.append(p.metrics), **SMALL)
    # It has one colour, and the ball a pattern.
    assert seen[-1]["mse"] < 0.4 * seen[0]["mse"]
    np.testing.assert_allclose(run.params["centre"], CENTRE, atol=0.05)
    # As a run: from the folder alone, the picture of a training view.
    with pytest.raises(RunError, match=r"field of one's own; give it"):
        load_run(out)
    field = Sphere()
    loaded = load_run(out, field=field)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, run.params)
    split = scene.splits["train"]
    picture = loaded.render(split.cameras[2], background=1.0)
    assert psnr(np.clip(picture.colour, 0.0, 1.0), blend(split.images[2], 1.0)) > 15.0
    assert np.abs(picture.opacity - split.images[2, ..., 3] / 255.0).mean() < 0.08
    # Cells far from the ball are not asked any more.
    grid = loaded.occupancy
    cells = np.asarray(occupied(grid))
    middles = (np.argwhere(cells) + 0.5) * float(grid.cell) + np.asarray(grid.origin)
    away = np.linalg.norm(middles - CENTRE, axis=-1)
    assert cells.mean() < 0.7
    assert away.max() < 2.5 * RADIUS


def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(scene, tmp_path):
    field = Sphere()
    train = functools.partial(fit, field, scene, steps=60, report_every=7, **SMALL)
    whole = train(tmp_path / "whole")
    stopped = train(tmp_path / "stopped", report=lambda p: p.step == 28)
    assert stopped.step == 28
    resumed = train(tmp_path / "stopped", resume=True)
    assert resumed.step == whole.step == 60
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    np.testing.assert_array_equal(resumed.occupancy.cells, whole.occupancy.cells)
    with pytest.raises(RunError, match="holds a run already"):
        train(tmp_path / "stopped")


def test_a_capture_with_points_is_resumed_in_the_space_that_they_gave_it(scene, tmp_path):
    """Of which the run's folder has none; cameras are some 3 from the ball, and what they see 7."""
    points = np.random.default_rng(0).normal(size=(400, 3))
    points *= 7.0 / np.linalg.norm(points, axis=-1, keepdims=True)
    capture = dataclasses.replace(scene, unbounded=True, points=points, near=0.5)
    train = functools.partial(fit, Sphere(), capture, tmp_path, **SMALL)
    ball = train(steps=4).config.scene.ball
    assert ball > 1.5
    resumed = train(steps=6, resume=True)
    assert (resumed.step, resumed.config.scene.ball) == (6, ball)


class Known:
    """Density 3 where x is positive, in whatever space it is asked in; 0 elsewhere."""

    def init(self, key):
        return {}

    def density(self, params, positions):
        return jnp.where(positions[..., 0] > 0.0, 3.0, 0.0), positions

    def colour(self, params, features, view_directions):
        return jnp.zeros(features.shape)


@pytest.mark.parametrize("space", ["none", "contracted"])
def test_the_occupancy_follows_the_field_and_forgets_slowly(space):
    split = photographs()
    config = OccupancyConfig(cells=16, steps=32, refresh_every=4, warm_up=8)
    training = TrainingConfig(seed=1)
    given = {"none": None, "contracted": SphereContraction(jnp.zeros(3), jnp.float32(1.0))}[space]
    occupancy, remembered = full_occupancy(split, config, "white", given)
    first = np.asarray(occupied(occupancy))
    field = Known() if given is None else WarpedField(Known(), given)
    state = begin(field, {}, config.sampler(occupancy), optax.identity(), 100)
    state = dataclasses.replace(state, strategy=remembered)
    strategy = KeepOccupancy(split, config, training)
    assert isinstance(strategy, Strategy)
    assert [n for n in range(13) if strategy.is_due(n, 100)] == [4, 8, 12]
    for number in range(4, 200, 4):
        state = strategy.change(state, number, 100)
    cells = np.asarray(occupied(state.sampler.occupancy))
    x = (np.arange(16) + 0.5) * float(occupancy.cell) + float(occupancy.origin[0])
    inside = x - 0.51 * float(occupancy.cell) > 0.0  # all of the cell is dense
    np.testing.assert_array_equal(cells[inside], first[inside])
    outside = x + 0.51 * float(occupancy.cell) < 0.0
    assert not cells[outside].any()
    # What is remembered is the optical depth of a step, a little less where nobody asked of late: at each
    # update half as many cells are asked as there are.
    depths = np.asarray(state.strategy.depths)[inside][first[inside]]
    truth = 3.0 * float(occupancy.step)
    assert depths.max() == pytest.approx(truth, rel=1e-5)
    assert depths.min() > 0.95**20 * truth
    assert np.median(depths) > 0.9 * truth
    # Where the field becomes empty, that is remembered for some updates.
    if given is None:
        nowhere = WarpedField(Known(), BoxSpace(jnp.full(3, 9.0), jnp.float32(1.0)))
        once = strategy.change(dataclasses.replace(state, field=nowhere), 4, 100)
        np.testing.assert_allclose(
            np.asarray(once.strategy.depths)[inside][first[inside]], 0.95 * depths, rtol=1e-5
        )


TINY = {"voxels__stages__resolutions": (8, 12, 16), "training__rays_per_batch": 256}


@pytest.mark.slow
def test_a_preset_is_trained_as_its_parts_are_and_opened_without_a_field(scene, tmp_path):
    run = fit("minute", scene, tmp_path / "run", steps=24, **TINY)
    assert (run.step, run.config.training.max_seconds) == (24, 0.0)
    config = override(preset("minute"), {key.replace("__", "."): x for key, x in TINY.items()})
    config = override(config, {"training.steps": 24, "training.max_seconds": 0.0})
    config = adapt_to_scene(config, scene, ["voxels.stages.resolutions"])
    assert run.config == config
    trainer = trainer_of(config, scene)
    *_, last = train(first_state(config, scene), trainer)
    expected = trainer.to_host(last.state)
    jax.tree.map(np.testing.assert_array_equal, run.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, load_run(tmp_path / "run").params, run.params)


@pytest.mark.slow
def test_a_configuration_that_was_stopped_and_resumed_ends_with_the_same_bits(scene, tmp_path):
    config = override(preset("hash_grid"), {"hash_grid.field.log2_rows": 10})
    small = {"training__rays_per_batch": 256, "hash_grid__occupancy__cells": 16}
    begin = functools.partial(fit, config, scene, steps=20, report_every=5, **small)
    whole = begin(tmp_path / "whole")
    assert begin(tmp_path / "stopped", report=lambda p: p.step == 10).step == 10
    resumed = begin(tmp_path / "stopped", resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    # What is named now is what counts, also for how long.
    assert begin(tmp_path / "stopped", resume=True).step == 20
    assert fit(config, scene, tmp_path / "stopped", steps=23, resume=True, **small).step == 23


def test_a_budget_of_seconds_fixes_the_steps(scene):
    seen = []
    begun = time.perf_counter()
    run = fit(Sphere(), scene, seconds=6.0, report=seen.append, **SMALL)
    assert time.perf_counter() - begun < 20.0
    assert run.step == seen[-1].total_steps < 1_000_000
    assert seen[-1].fixed
    assert not seen[0].fixed


def test_a_run_stopped_before_its_steps_are_fixed_still_has_its_budget(scene, tmp_path):
    train = functools.partial(fit, Sphere(), scene, tmp_path, **SMALL)
    assert train(seconds=4.0, report=lambda _: True).step == 1
    seen = []
    resumed = train(resume=True, report=seen.append)
    assert 1 < resumed.step == seen[-1].total_steps < 1_000_000
    assert not seen[0].fixed
    assert seen[-1].fixed
    # Steps that were named beside a budget are the most that a plan takes.
    train = functools.partial(fit, Sphere(), scene, tmp_path / "both", **SMALL)
    both = {"steps": 1_000_000, "seconds": 4.0}
    assert train(**both, report=lambda _: True).step == 1
    assert train(**both, report=lambda _: True, resume=True).step == 2
    assert 2 < train(resume=True).step < 1_000_000
    # With steps that were named there is nothing to fix, whatever the budget.
    train = functools.partial(fit, Sphere(), scene, tmp_path / "named", **SMALL)
    assert train(steps=6, report=lambda _: True).step == 1
    seen.clear()
    assert train(seconds=900.0, resume=True, report=seen.append).step == 6
    assert seen[0].fixed


class InPlace(KeepOccupancy):
    """Changes a parameter where it lies, and keeps what it was given."""

    def change(self, state, number, total):
        state.params["centre"] = np.asarray(state.params["centre"]) + 1.0
        return state

    def changed(self, state):
        self.cells = state.sampler.occupancy.cells

    def batch(self, state, number, total):
        if number > 1:
            assert np.asarray(self.cells).dtype == np.uint8
        return super().batch(state, number, total)

    def is_due(self, number, total):
        return number == 1


def test_a_strategy_may_change_parameters_in_place_and_keep_other_arrays(scene):
    config = override(
        Config(method="own"), {"training.rays_per_batch": 128, "own.occupancy.cells": 16}
    )
    config = adapt_to_scene(config, scene)
    optimizer = optax.sgd(0.0)
    state = occupied_method.first_state(config, scene, Sphere(), optimizer)
    way = occupied_method.trainer(config, scene, PhotometricLoss(), optimizer, by_rows=False)
    split = scene.splits["train"]
    way.strategy = InPlace(split, config.own.occupancy, config.training)
    before = np.asarray(state.params["centre"])
    *_, last = train(dataclasses.replace(state, total_steps=np.int32(4)), way)
    np.testing.assert_allclose(last.state.params["centre"], before + 1.0)


def test_near_and_far_that_are_named_bound_the_rays(scene):
    camera = scene.splits["train"].cameras[0]
    run = fit(Sphere(), scene, steps=1, scene__near=1.5, scene__far=7.0, **SMALL)
    assert float(run.rays(camera, jnp.full((1, 2), 8.0)).near[0]) == pytest.approx(1.5, rel=1e-3)
    with pytest.raises(ConfigError, match=r"scene\.near: 9 is not less than far, 8"):
        fit(Sphere(), scene, steps=1, scene__near=9.0, scene__far=8.0, **SMALL)


def test_a_scene_without_photographs_is_refused_in_one_line(scene):
    bare = dataclasses.replace(scene.splits["train"], images=None)
    with pytest.raises(ConfigError, match="the scene has no photographs"):
        fit(Sphere(), dataclasses.replace(scene, splits={"train": bare}), steps=2)


def test_an_optimizer_that_looks_at_all_numbers_takes_the_same_steps_on_two_devices(scene):
    """Also of a long array, of which Adam would take each device's rows by themselves."""

    class Long(Sphere):
        def init(self, key):
            return super().init(key) | {"rows": jnp.ones((4096, 2))}

        def density(self, params, positions):
            density, features = super().density(params, positions)
            return density * (1.0 + 1e-3 * jnp.mean(params["rows"])), features

    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    config = override(
        Config(method="own"),
        {"training.rays_per_batch": 128, "own.occupancy.cells": 16, "own.occupancy.steps": 48},
    )
    config = adapt_to_scene(config, scene)
    state, found = occupied_method.first_state(config, scene, Long(), optimizer), []
    way = occupied_method.trainer(
        config, scene, PhotometricLoss(opacity=0.1), optimizer, by_rows=False
    )
    for devices in (1, 2):
        chosen = jax.devices()[:devices]
        shapes = functools.partial(gradients_of, devices=devices, by_rows=False)
        step = sharding.parallel(
            way.one_step, chosen, axes=axes_on(devices, False), gradients=shapes
        )
        batch = way.strategy.batch(state, 0, 100)
        parts = jax.tree.map(lambda x, n=devices: x.reshape(n, -1, *x.shape[1:]), batch)
        cameras = jax.tree.map(jnp.asarray, scene.splits["train"].cameras)
        after, _ = step(sharding.replicate(state, chosen), parts, jax.random.key(0), cameras)
        moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params)
        found.append(moved)
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(found[1])))
    assert norm == pytest.approx(1e-3, rel=1e-2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-7), *found)


def test_a_box_is_a_scaled_cube_of_the_world():
    box = BoxSpace(jnp.array([1.0, 2.0, 3.0]), jnp.float32(8.0))
    corners = jnp.array([[1.0, 2.0, 3.0], [9.0, 10.0, 11.0], [5.0, 6.0, 7.0], [0.9, 6.0, 7.0]])
    np.testing.assert_allclose(
        box.place(corners)[:3], [[-2.0] * 3, [2.0] * 3, [0.0] * 3], atol=1e-6
    )
    assert box.holds(corners).tolist() == [True, True, True, False]
    np.testing.assert_allclose(box.rate(corners), 0.5)


@pytest.mark.parametrize("name", [path.stem for path in sorted(PROGRAMS.glob("*.py"))])
def test_the_programs_of_the_guide_run_and_are_short(name, tmp_path, monkeypatch, capsys):
    source = (PROGRAMS / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 30
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(PROGRAMS))
    sys.modules.pop("own_field", None)
    with as_users_have_it():
        found = runpy.run_path(str(PROGRAMS / f"{name}.py"))
    capsys.readouterr()
    if name == "own_field":
        assert found["again"].step == 40
        assert found["picture"].colour.shape == (32, 32, 3)
        np.testing.assert_array_equal(
            found["again"].params["radius"], found["run"].params["radius"]
        )
    if name in ("own_loss", "own_loop"):
        losses = [float(x["loss"] if isinstance(x, dict) else x) for x in found["losses"]]
        assert losses[-1] < 0.8 * losses[0]
    if name == "labels":
        np.testing.assert_allclose(
            found["labels"](found["head"]).sum(axis=-1),
            found["jaxnerf"].render_rays(
                found["field"], found["params"], found["rays"], found["sampler"]
            ).opacity,
            rtol=1e-4,
        )  # fmt: skip
        assert float(jnp.abs(found["gradient"]).max()) > 0.0
    if name == "gradients":
        assert found["to_params"]["logits"].shape == (8, 3)
        assert float(jnp.abs(found["to_params"]["logits"]).min()) > 0.0
        assert float(jnp.abs(found["to_poses"]).max()) > 0.0


@pytest.mark.parametrize("depth", [1e-3, 3e-3, 7e-3])
def test_cells_that_are_all_alike_are_all_occupied(depth):
    depths = jnp.full((8, 8, 8), depth, jnp.float32)
    assert (depths >= keep_occupancy._threshold(depths, OccupancyConfig())).all()
