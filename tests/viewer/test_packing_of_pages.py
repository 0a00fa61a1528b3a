"""What a page keeps of a field, and how `jaxnerf export RUN page` is refused."""

import dataclasses
import json
import os
import re
import zlib
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from lattice import lattice_vertices
from viewer_factory import KINDS, run_of

from jaxnerf.cli import main
from jaxnerf.runs.files import RunError
from jaxnerf.sampling.occupancy import encode
from jaxnerf.viewer.packing import NOTHING, pack_cells, pack_detail, pack_table
from jaxnerf.viewer.page import page, write_page

OLD = Path(__file__).parents[1] / "runs" / "old_runs"


def inner(run):
    return getattr(run.field, "field", run.field)


@pytest.mark.parametrize("kind", KINDS)
def test_points_that_show_keep_their_numbers_to_a_level(kind):
    run = run_of(kind)
    bricks, table = np.asarray(inner(run).bricks), np.asarray(run.params.table)
    packed = pack_table(bricks, table)
    kept, before, after = (
        packed.bricks(),
        lattice_vertices(bricks),
        lattice_vertices(packed.bricks()),
    )
    assert 0 < kept.max() <= bricks.max()
    index = {tuple(place): row for row, place in enumerate(before.astype(int)) if row >= 64}
    rows = np.array([index[tuple(place)] for place in after[64:].astype(int)])
    old, new = table[rows], packed.table()[64:]
    # 127 steps of asinh(x / 4) between the least and the greatest: at most 0.4 near 0, more beyond.
    logits = np.maximum(old[:, 0], NOTHING)
    assert np.abs(new[:, 0] - logits).max() < 0.02 * (np.abs(logits) + 5.0).max()
    dense = logits > -5.0
    spread = np.ptp(old[:, 1:])
    assert np.abs(new - old)[dense, 1:].max() < spread / 63
    # What is left out has no density.
    gone = np.setdiff1d(np.fromiter(index.values(), int), rows)
    assert (table[gone, 0] < -9.0).all()


def test_detail_keeps_its_numbers_to_a_level():
    detail = np.asarray(run_of("unbounded").params.detail)
    codes, values = pack_detail(detail)
    assert codes.shape == (4, len(detail))
    found = np.stack([values[c][codes[c]] for c in range(4)], axis=-1).astype(np.float32)
    expected = np.roll(detail, -1, axis=1)  # the density's logit comes last
    assert np.abs(found - expected).max() < np.ptp(detail) / 63


def test_bricks_without_density_are_left_out_but_not_those_beside_it():
    bricks = np.zeros((3, 3, 3), np.int32)
    bricks[0, 0, :] = 1, 2, 3
    table = np.full((64 * 4, 4), -15.0, np.float32)
    table[:, 1:] = 1.0
    # The first point of the third brick along z: the last voxels of the second reach it.
    table[3 * 64, 0] = 2.0
    packed = pack_table(bricks, table)
    assert packed.kept[0, 0].tolist() == [False, True, True]
    rows = packed.table().reshape(-1, 64, 4)
    assert rows[2, 0, 0] == pytest.approx(2.0, abs=0.1)
    # Of points that no dense voxel touches the features are gone.
    np.testing.assert_allclose(rows[1, [3, 0], 1], [1.0, 0.0], atol=0.05)


def test_empty_cells_say_how_far_it_is_to_something():
    cells = np.random.default_rng(0).random((24, 24, 24)) < 2e-3
    packed, factor = pack_cells(np.asarray(encode(cells)))
    assert factor == 1
    places = np.argwhere(cells)
    for cell in np.ndindex(packed.shape):
        if sum(cell) % 7 == 0:  # enough of them
            expected = np.abs(places - cell).max(axis=1).min()
            assert packed[cell] == min(expected, 15)


def test_cells_that_are_too_many_for_a_texture_are_joined(monkeypatch):
    monkeypatch.setattr("jaxnerf.viewer.packing._MOST_CELLS", 8)
    cells = np.zeros((19, 19, 19), bool)
    cells[18, 3, 7] = True
    packed, factor = pack_cells(np.asarray(encode(cells)))
    assert (factor, packed.shape) == (4, (5, 5, 5))
    assert np.argwhere(packed == 0).tolist() == [[4, 0, 1]]


def test_a_page_asks_for_nothing_and_holds_its_scene():
    text = page(run_of("unbounded"))
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)", text)
    assert not re.findall(r"https?:|url\(|@import|import\(|fetch\(", text)
    packed = text.partition('id="scene">')[2].partition("<")[0]
    data = zlib.decompress(b64decode(packed))
    header = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
    assert header["space"]["kind"] == "sphere"
    assert len(header["cameras"]) == 7


@pytest.mark.parametrize("method", ["voxels", "nerf"])
def test_the_command_writes_a_page_or_says_what_instead(method, tmp_path, capfd):
    status = main(["export", str(OLD / method), "page", f"--out={tmp_path}/scene.html"])
    out, err = capfd.readouterr()
    if method == "voxels":
        assert (status, err) == (0, "")
        assert re.fullmatch(rf"\d\.\d MB; .*\nwrote {tmp_path}/scene\.html\n", out)
        assert os.listdir(tmp_path) == ["scene.html"]
        return
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "holds the fast field (method voxels), and not nerf" in err
    assert f"jaxnerf render {OLD / method}" in err
    assert os.listdir(tmp_path) == []


COMMANDS = {
    "no run": (["nowhere", "page", "--out=x.html"], "nowhere: no such run folder"),
    "an unknown kind": ([str(OLD / "voxels"), "pages"], "did you mean 'page'?"),
    "no kind": ([str(OLD / "voxels")], "expected RUN KIND"),
    "another suffix": ([str(OLD / "voxels"), "page", "--out=x.txt"], "does not end in .html"),
    "no folder": ([str(OLD / "voxels"), "page", "--out=no/x.html"], "no: no such folder"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_wrong_export_is_refused_in_one_line(case, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arguments, said = COMMANDS[case]
    assert main(["export", *arguments]) == 1
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_leaves_the_page_that_was_there(tmp_path):
    path = tmp_path / "scene.html"
    path.write_text("before")
    (tmp_path / ".partial.scene.html").symlink_to("/dev/full")
    with pytest.raises(RunError, match="the disk is full"):
        write_page(run_of("bounded"), path)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["scene.html"]


def test_another_field_is_named(tmp_path):
    run = dataclasses.replace(run_of("bounded"), field=object())
    with pytest.raises(RunError, match="a page holds the fast field"):
        write_page(run, tmp_path / "scene.html")
    assert os.listdir(tmp_path) == []
