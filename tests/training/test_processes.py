"""Several processes that train together, against one with as many devices."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnerf.training import sharding as placement
from jaxnerf.training.sharding import broadcast_from_process_0


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What `two_processes.py` saves: of one process with two devices, and of two with one each."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("two_processes.py")
    runs = [(1, 0, "alone"), (2, 0, "pair"), (2, 1, "pair")]
    processes = [
        subprocess.Popen(
            [sys.executable, script, *map(str, (port, count, number)), folder / name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for count, number, name in runs
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [dict(np.load(folder / f"{name}_{number}.npz")) for _, number, name in runs]


def test_two_processes_of_one_device_train_like_one_of_two(results):
    alone, first, second = results
    assert first["devices"] == alone["devices"] == 2
    np.testing.assert_array_equal(first["flat"], second["flat"])
    np.testing.assert_array_equal(first["table"], second["table"])
    np.testing.assert_array_equal(first["table"], alone["table"])
    np.testing.assert_allclose(first["losses"], alone["losses"], rtol=1e-4)
    np.testing.assert_allclose(first["flat"], alone["flat"], atol=1e-3)


def test_two_processes_that_would_decide_otherwise_grow_like_one(results):
    rows = [each["rows_decided"] for each in results]
    assert (rows[1] != rows[2]).any()
    np.testing.assert_array_equal(rows[0], rows[1])
    alone, first, second = (
        {name: x for name, x in each.items() if name.startswith("grown")} for each in results
    )
    assert len(first) > 10
    assert first["grown.strategy.stage"] == 1
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
        expected = alone[name]
        assert array.shape == expected.shape, name
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-3, err_msg=name)


def test_what_the_first_process_sends_arrives_to_the_bit_whatever_the_others_have(monkeypatch):
    """Two processes in turn, with a line between them for what is sent."""
    from jax.experimental import multihost_utils

    line, here = [], [0]
    monkeypatch.setattr(placement.jax, "process_count", lambda: 2)
    monkeypatch.setattr(placement.jax, "process_index", lambda: here[0])

    def broadcast(array):
        if here[0] == 0:
            line.append(np.array(array))
            return line[-1]
        sent = line.pop(0)
        assert (sent.shape, sent.dtype) == (array.shape, array.dtype)
        return sent

    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    sent = {
        "flags": np.array([True, False, True]),
        "table": jnp.asarray([[-0.0, np.nan, 1e-42], [1.0, np.inf, -np.inf]], jnp.float32),
        "far": np.float64(np.pi),
        "none": None,
        "empty": np.zeros((0, 3), np.int64),
    }
    other = {
        "flags": np.zeros(8, bool),
        "table": np.zeros((5, 1), np.float32),
        "far": np.float64(0.0),
        "none": None,
        "empty": np.ones((2, 2), np.int64),
    }
    kept = broadcast_from_process_0(sent)
    here[0] = 1
    received = broadcast_from_process_0(other)
    assert not line
    assert jax.tree.structure(received) == jax.tree.structure(kept) == jax.tree.structure(sent)
    for before, *after in zip(*map(jax.tree.leaves, (sent, kept, received)), strict=True):
        for array in after:
            assert (array.shape, array.dtype) == (np.shape(before), before.dtype)
            assert array.tobytes() == np.asarray(before).tobytes()
            assert array.flags.writeable
            assert array.flags.aligned
