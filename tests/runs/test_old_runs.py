"""Runs that an earlier version left: opened, and rendered as that version did."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnerf import Camera, load_run
from jaxnerf.config import Config, from_json, override, to_json
from jaxnerf.runs.files import RunError

# Of commit df297d1: folders as it left them (without most cameras), and its pictures.
FOLDER = Path(__file__).parent / "old_runs"


@pytest.mark.parametrize("method", ["voxels", "nerf"])
def test_an_old_run_renders_the_picture_of_its_version(method):
    run = load_run(FOLDER / method)
    camera = Camera.look_at((2.2, -3.0, 1.4), width=24, height=24, field_of_view=40.0)
    seen = run.render(camera)
    expected = np.load(FOLDER / f"{method}.npz")
    assert 0.1 < expected["opacity"].mean() < 0.9
    # Where a level places its samples hangs on the rounding of the one before: 2e-5 at one pixel.
    close = 1e-5 if method == "voxels" else 5e-5
    for name in ("colour", "opacity", "depth"):
        np.testing.assert_allclose(
            getattr(seen, name), expected[name], rtol=close, atol=close, err_msg=name
        )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))


def test_old_names_of_settings_are_read_and_unknown_ones_are_not(tmp_path):
    text = (FOLDER / "voxels" / "config.json").read_text()
    assert '"direction_degree": 2' in text
    assert from_json(text).voxels.field.sh_degree == 2
    part = {"method": "voxels", "voxels": {"features": 7}, "training": {"adam_beta1": 0.5}}
    read = from_json(json.dumps(part)).voxels
    assert (read.field.features, read.optimizer.beta1) == (7, 0.5)
    part = {"voxels": {"stages": {"points": 7}}}
    assert from_json(json.dumps(part)).voxels.stages.target_vertices == 7
    part = {"field": {"direction_degree": 3}, "nerf": {"field": {"position_degree": 5}}}
    read = from_json(json.dumps(part)).nerf.field
    assert (read.position_octaves, read.direction_octaves) == (5, 3)
    folder = shutil.copytree(FOLDER / "voxels", tmp_path / "run")
    (folder / "config.json").write_text(text.replace("smooth_edges", "smooth_edge"))
    with pytest.raises(RunError, match=r"unknown key 'evaluation\.smooth_edge'"):
        load_run(folder)


def test_a_key_that_was_renamed_alone_changes_no_other_setting():
    """Configurations that have sections of methods keep all that they name."""
    now = override(Config(), {"nerf.field.direction_octaves": 2, "voxels.depth_loss": 0.3})
    text = to_json(now).replace("_octaves", "_degree")
    assert text.count("_degree") > to_json(now).count("_degree")
    assert from_json(text) == now
