"""A time budget alone chooses a configuration; presets are names for some."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ball import photographs

from jaxnerf.cli import common, train
from jaxnerf.config import flatten, override, to_json
from jaxnerf.config.adaptation import adapt_to_scene
from jaxnerf.config.presets import describe_seconds, for_seconds, preset
from jaxnerf.scenes import Scene

NAMES = ("minute", "five_minutes", "half_hour")
BUDGETS = [*np.geomspace(20.0, 4000.0, 200), 60.0, 90.0, 150.0, 300.0, 1800.0]


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_the_configurations_of_their_budgets(name):
    assert for_seconds(preset(name).training.max_seconds) == preset(name)


@pytest.mark.parametrize(("seconds", "name"), [(5.0, "minute"), (9000.0, "half_hour")])
def test_beyond_the_ends_only_the_budget_differs(seconds, name):
    expected = override(preset(name), {"training.max_seconds": seconds})
    assert for_seconds(seconds) == expected


def test_more_seconds_never_choose_less():
    chosen = [for_seconds(seconds) for seconds in sorted(BUDGETS)]
    for config in chosen:
        assert override(config, {}) == config  # which checks that values fit one another
    keys = [f"voxels.field.{name}" for name in ("features", "width", "sh_degree")]
    keys += [
        f"voxels.stages.{name}" for name in ("target_vertices", "samples_per_voxel", "unseen_below")
    ]
    flat = [flatten(config) for config in chosen]
    for key in keys:
        values = [each[key] for each in flat]
        assert values == sorted(values), key
        assert values[0] < values[-1], key
    growing = [config.voxels.stages for config in chosen]
    for name in ("fractions", "resolutions"):
        counts = [len(getattr(each, name)) for each in growing]
        assert counts == sorted(counts)
    # The field is never older when the last stage begins, and is half as old as it was at the end.
    assert [each.fractions[0] for each in growing] == sorted(
        (each.fractions[0] for each in growing), reverse=True
    )
    assert [each.resolutions[-1] for each in growing] == sorted(
        each.resolutions[-1] for each in growing
    )
    # What a step costs is chosen in small parts: features one at a time.
    features = [config.voxels.field.features for config in chosen]
    assert set(features) == {3, 4, 5, 6, 7}
    # Nothing but what is named here is chosen.
    free = {*keys, "voxels.stages.fractions", "voxels.stages.resolutions", "training.max_seconds"}
    for each in flat:
        assert {key for key in each if each[key] != flat[0][key]} <= free


def chosen(*arguments: str):
    values = train._flags()
    common.parse(values, arguments, "")
    seconds = train._seconds_that_choose(values)
    base = for_seconds(seconds) if seconds else None
    return train._with_shorthands(common.configuration(values, base), values)


@pytest.mark.parametrize("flag", ["--max_seconds", "--training.max_seconds"])
def test_a_time_budget_without_a_preset_chooses_and_values_stay(flag):
    assert chosen(flag, "360") == for_seconds(360.0)
    config = chosen(flag, "360", "--voxels.field.features=4", "--max_steps=70")
    assert (config.voxels.field.features, config.training.steps) == (4, 70)
    assert config.voxels.stages == for_seconds(360.0).voxels.stages


@pytest.mark.parametrize("name", NAMES)
def test_a_named_preset_keeps_its_settings_whatever_the_seconds(name):
    config = chosen("--config", name, "--max_seconds", "360")
    assert config == override(preset(name), {"training.max_seconds": 360.0})


def test_without_seconds_nothing_is_chosen():
    assert chosen() == preset("minute")
    unlimited = dataclasses.replace(preset("minute").training, max_seconds=0.0)
    assert chosen("--max_seconds=0").training == unlimited
    steps = chosen("--max_steps=500")
    assert steps.voxels == preset("minute").voxels


def test_the_line_says_which_presets_a_budget_lies_between():
    assert describe_seconds(360.0) == "settings for 360 s: between five_minutes and half_hour"
    assert describe_seconds(60.0) == "settings for 60 s: those of minute"
    assert describe_seconds(10.0) == "settings for 10 s: those of minute"
    assert describe_seconds(1e4) == "settings for 10000 s: those of half_hour"


def test_settings_that_are_true_or_false_are_flags_without_a_value_too():
    for given, expected in (("", True), ("=true", True), ("=false", False)):
        config = chosen(f"--voxels.calibration.refine_poses{given}")
        assert config.voxels.calibration.refine_poses is expected
    assert chosen("--config=nerf", "--nonerf.separate_levels").nerf.separate_levels is False


def adapted(*arguments: str):
    values = train._flags()
    common.parse(values, arguments, "")
    config = common.configuration(values)
    scene = Scene("ball", Path(), "test", {"train": photographs(3)}, near=1.0, far=9.0)
    return adapt_to_scene(config, scene, common.chosen(values))


@pytest.mark.parametrize(
    "setting",
    ["scene.space=unbounded", "voxels.stages.resolutions=16,32,48", "voxels.field.width=24"],
)
def test_a_setting_means_the_same_in_a_file_as_in_a_flag(tmp_path, setting):
    key, value = setting.split("=")
    section, *inner = key.split(".")
    plain, named = tmp_path / "plain.json", tmp_path / "named.json"
    plain.write_text(json.dumps({"method": "voxels"}))
    nested = value
    for name in reversed(inner):
        nested = {name: nested}
    named.write_text(json.dumps({"method": "voxels", section: nested}))
    config = adapted(f"--config={named}")
    assert config == adapted(f"--config={plain}", f"--{setting}")
    assert config != adapted(f"--config={plain}")


def test_the_file_of_a_run_without_an_end_is_that_run_again(tmp_path):
    path = tmp_path / "config.json"
    first = adapted("--config=minute", "--scene.space=unbounded", "--voxels.optimizer.beta1=0.5")
    path.write_text(to_json(first))
    assert adapted(f"--config={path}") == first
    assert first.voxels.optimizer.beta1 == 0.5
