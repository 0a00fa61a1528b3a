"""Configurations: there and back through JSON, and strict about keys, types and values."""

import ast
import dataclasses
import json
import math
import re
import typing
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnerf.cli.common import define_config_flags
from jaxnerf.config import Config, ConfigError, flatten, from_json, override, to_json
from jaxnerf.config.presets import PRESETS, preset

KEYS = flatten(Config())


def kinds(config: type = Config, prefix: str = "") -> dict[str, typing.Any]:
    """The declared type of every key."""
    found = {}
    hints = typing.get_type_hints(config)
    for name in (field.name for field in dataclasses.fields(config)):
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            found |= kinds(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = kind
    return found


KINDS = kinds()
FREE = {key: kind for key, kind in KINDS.items() if key != "method"}
# What must be in a range, or fit other values: legal values of these keys.
RULES: dict[str, st.SearchStrategy] = {
    "nerf.samples": st.lists(st.integers(3, 99), min_size=1, max_size=4).map(tuple),
    "voxels.field.features": st.integers(3, 99),
    "voxels.field.sh_degree": st.integers(0, 4),
    "voxels.field.initial_opacity": st.floats(1e-9, 0.99),
    "voxels.field.log2_detail": st.integers(0, 30),
    "voxels.field.detail_finer": st.integers(1, 16),
    "voxels.stages.resolutions": st.tuples(*[st.integers(8, 1024)] * 3),
    "voxels.stages.fractions": st.tuples(st.floats(0.01, 0.4), st.floats(0.5, 0.99)),
    "voxels.stages.cells": st.integers(8, 512),
    "voxels.stages.most_cells": st.integers(8, 512),
    "voxels.optimizer.smoothing": st.floats(0.0, 1.0),
    "hash_grid.field.levels": st.integers(2, 16),
    "hash_grid.field.features": st.integers(1, 8),
    "hash_grid.field.width": st.integers(1, 256),
    "hash_grid.field.geometry": st.integers(0, 32),
    "hash_grid.field.sh_degree": st.integers(0, 4),
    "hash_grid.field.coarsest": st.integers(1, 64),
    "hash_grid.field.finest": st.integers(64, 4096),
    "hash_grid.field.log2_rows": st.integers(0, 20),
    **{f"{name}.occupancy.cells": st.integers(1, 1024) for name in ("hash_grid", "own")},
    **{f"{name}.occupancy.decay": st.floats(0.0, 1.0) for name in ("hash_grid", "own")},
    **{f"{name}.occupancy.empty_below": st.floats(1e-9, 0.99) for name in ("hash_grid", "own")},
    **{
        f"{name}.optimizer.{beta}": st.floats(0.0, 0.9999)
        for name in ("voxels", "nerf", "hash_grid")
        for beta in ("beta1", "beta2")
    },
}
# Of these, one that stands beside the others' defaults.
ALONE = {
    "voxels.field.sh_degree": 3,
    "hash_grid.field.sh_degree": 2,
    "voxels.stages.resolutions": (8, 16, 24),
    "voxels.stages.fractions": (0.25, 0.5),
    "voxels.stages.cells": 17,
    "voxels.stages.most_cells": 170,
    "hash_grid.field.finest": 77,
}


def values_of(kind) -> st.SearchStrategy:
    """Legal values of a type, but for keys with rules of their own."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(st.integers(2, 99), min_size=1, max_size=4).map(tuple)
    return {
        str: st.sampled_from(["auto", "white", "black", "random", "#0a80ff"]),
        bool: st.booleans(),
        int: st.integers(1, 2**31 - 1),
        float: st.floats(1e-300, 1e300),
    }[kind]


def text_of(value) -> str:
    """A value as a user types it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_every_key_is_of_a_type_that_these_tests_know():
    assert set(KINDS) == set(KEYS)
    for kind in KINDS.values():
        values_of(kind)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.fixed_dictionaries(
        {}, optional={key: RULES.get(key, values_of(kind)) for key, kind in FREE.items()}
    )
)
def test_values_survive_text_and_json(values):
    config = override(Config(), values)
    assert flatten(config) == KEYS | values
    assert override(Config(), {key: text_of(value) for key, value in values.items()}) == config
    assert from_json(to_json(config)) == config
    assert hash(config) == hash(from_json(to_json(config)))
    for key, value in flatten(config).items():
        assert type(value) is type(KEYS[key]), key


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_override_nothing_when_nothing_is_given(name):
    config = preset(name)
    assert from_json(to_json(config)) == config
    assert override(config, {}) == config


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_overridden_by_text_and_alone(key):
    kind, before = KINDS[key], KEYS[key]
    if get_origin(kind) is Literal:
        after = next(option for option in get_args(kind) if option != before)
    else:
        after = {bool: not before, int: 7, float: 0.125, str: "#808080"}.get(kind, (8, 16, 24))
        after = ALONE.get(key, after)
    changed = flatten(override(Config(), {key: text_of(after)}))
    assert changed == KEYS | {key: after}
    assert type(changed[key]) is type(before)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_refuses_what_is_not_of_its_type_by_name(key):
    wrong = ["purple", "", None, {}, [[]], math.nan, math.inf, -1, "-1", 10**400, "1e999", "nan"]
    kind = KINDS[key]
    wrong += {int: [1.5, "1.5", True, 2**31, [1]], float: [True, [1.0]], bool: [2, "yes", 0]}.get(
        kind, [[], "2,x", [2, None]] if get_origin(kind) is tuple else ["White ", ["white"], 0]
    )
    wrong += ["#12345", "#1234567", "808080", "#12345g", "#+12345", "#808080\n"] * (kind is str)
    for value in wrong:
        with pytest.raises(ConfigError, match=rf"^{key}: ") as caught:
            override(Config(), {key: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("False", False), ("0", False)]
)
def test_bools_are_words_or_digits(text, value):
    assert override(Config(), {"nerf.separate_levels": text}).nerf.separate_levels is value


@pytest.mark.parametrize("key", ["training.steps", "nerf.field.width", "scene.downscale"])
def test_what_must_not_be_0_is_refused_by_name(key):
    with pytest.raises(ConfigError, match=key):
        override(Config(), {key: 0})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"nerf.samples": "2,4", "nerf.sample_at": "start"}, "nerf.samples: "),
        ({"hash_grid.field.sh_degree": 5}, "hash_grid.field.sh_degree: 5 is not from 0 to 4"),
        ({"hash_grid.field.levels": 2_000_000_000}, "hash_grid.field.levels: "),
    ],
)
def test_what_would_fail_when_it_is_used_is_refused_at_once(values, named):
    with pytest.raises(ConfigError, match=f"^{re.escape(named)}"):
        override(Config(), values)


def test_a_level_of_one_sample_is_refused():
    with pytest.raises(ConfigError, match=r"^nerf\.samples: "):
        override(Config(), {"nerf.samples": "64,1"})


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("training.stesp", "training.steps"), ("nerf.field.widht", "nerf.field.width"), ("zzz", None)],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key, nearest):
    outer, _, inner = key.partition(".")
    nested = json.dumps({outer: {inner: 1}} if inner else {outer: 1})
    for attempt in (lambda: override(Config(), {key: 1}), lambda: from_json(nested)):
        with pytest.raises(ConfigError, match=f"unknown key '{key}'") as caught:
            attempt()
        assert ("did you mean" in str(caught.value)) == (nearest is not None)
        assert (nearest or key) in str(caught.value)


def test_an_unknown_preset_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"'papre'.*did you mean 'paper'"):
        preset("papre")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '{"training": 3}', '{"training": {"steps": {"a": 1}}}']
    + [
        "[" * 10**5,
        '{"training": {"steps": ' + "1" * 5000 + "}}",
        '{"nerf": {"field": {"width": 1e400}}}',
    ],
)
def test_what_is_no_configuration_is_refused(text):
    with pytest.raises(ConfigError):
        from_json(text)


def test_keys_left_out_of_json_keep_their_defaults():
    assert from_json('{"training": {"steps": 5}}') == override(Config(), {"training.steps": 5})


@pytest.mark.parametrize(
    ("given", "kept"),
    [("#FFFFFF", "white"), ("#000000", "black"), ("#8080FF", "#8080ff"), ("auto", "auto")],
)
def test_a_colour_is_kept_under_one_name(given, kept):
    assert override(Config(), {"training.background": given}).training.background == kept


def test_separate_levels_decides_how_many_fields_there_are():
    two = override(Config(), {"nerf.samples": "4,4,4"})
    assert len(two.nerf.fields()) == 3
    assert len(override(two, {"nerf.separate_levels": False}).nerf.fields()) == 1


def test_every_key_has_a_flag_with_help():
    values = flags.FlagValues()
    define_config_flags(values)
    assert set(values) == set(KEYS)
    for key in KEYS:
        kind, _, about = values[key].help.partition("; ")
        assert kind
        assert len(about) > 5, key


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"voxels.stages.fractions": (0.2, 0.5)}, "voxels.stages.fractions: 2 for 2"),
        ({"voxels.stages.resolutions": "64,96,128"}, "voxels.stages.fractions: 1 for 3"),
        (
            {"voxels.stages.resolutions": (8, 9, 10), "voxels.stages.fractions": (0.5, 0.4)},
            "do not increase",
        ),
        (
            {"voxels.stages.resolutions": (8, 9), "voxels.stages.fractions": (1.0,)},
            "do not increase",
        ),
        (
            {"voxels.stages.resolutions": (4, 9), "voxels.stages.fractions": (0.5,)},
            "voxels.stages.resolutions",
        ),
        (
            {"voxels.stages.resolutions": (8, 9999), "voxels.stages.fractions": (0.5,)},
            "voxels.stages.resolutions",
        ),
        ({"voxels.stages.cells": 4}, "voxels.stages.cells"),
        ({"voxels.stages.cells": 0}, "voxels.stages.cells: 0 is not from 8 to 512"),
        ({"voxels.field.features": 2}, "voxels.field.features"),
        ({"voxels.field.sh_degree": 5}, "voxels.field.sh_degree"),
    ],
)
def test_values_of_the_fast_field_must_fit_one_another(values, named):
    two = {"voxels.stages.resolutions": (8, 16), "voxels.stages.fractions": (0.5,)}
    config = override(Config(), {"method": "voxels", **two})
    with pytest.raises(ConfigError, match=re.escape(named)):
        override(config, values)


def test_a_hash_grid_that_cannot_be_made_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^hash_grid\.field\.levels: no 16 from 16 to 8 cells"):
        override(Config(), {"method": "hash_grid", "hash_grid.field.finest": 8})


def test_keys_of_the_other_method_have_no_effect():
    for name, (_, config) in PRESETS.items():
        for key in KEYS:
            section = key.partition(".")[0]
            others = {"voxels", "nerf", "hash_grid", "own"} - {config.method}
            assert config.has_effect(key) == (section not in others), (name, key)


def test_keys_that_messages_name_are_keys():
    """In whatever text the package has: messages, help, docstrings."""
    sections = {key.rpartition(".")[0] for key in KEYS}
    pattern = re.compile(
        r"\b(?:voxels|nerf|hash_grid|own|growing|render)\.[a-z_0-9]+(?:\.[a-z_0-9]+)?\b"
    )
    named = set()
    for path in (Path(__file__).parents[2] / "jaxnerf").rglob("*.py"):
        if path.name == "earlier_versions.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = re.sub(r"jaxnerf(?:\.\w+)+|\w+\.json\b", "", node.value)
                named |= {(path.name, name) for name in pattern.findall(text)}
    assert {name for _, name in named} >= {"voxels.calibration.refine_poses"}
    assert not {(file, name) for file, name in named if name not in {*KEYS, *sections}}
