"""Metrics of a run: lines of JSON, and the same for TensorBoard."""

import json
import struct
from pathlib import Path

from jaxnerf.runs.metrics import MetricsLog, read_metrics


def events_of(folder: Path) -> list:
    """What stands in a folder's only TensorBoard file."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.*")
    contents, events = path.read_bytes(), []
    while contents:
        (length,) = struct.unpack("<Q", contents[:8])
        events.append(Event.FromString(contents[12 : 12 + length]))
        contents = contents[16 + length :]
    return events


def test_metrics_are_lines_of_json_and_events(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 0.5, "psnr": 3.0})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5, "psnr": 3.0}]
    log.write(50, {"loss": 0.25, "psnr": 6.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 50]
    first, *scalars = events_of(tmp_path)
    assert first.file_version == "brain.Event:2"
    found = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in scalars]
    assert found == [(1, "loss", 0.5), (1, "psnr", 3.0), (50, "loss", 0.25), (50, "psnr", 6.0)]


def test_metrics_after_the_resumed_step_are_dropped(tmp_path):
    rows = [{"step": step, "loss": 1.0 / step} for step in (1, 50, 100)]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 150, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert read_metrics(tmp_path) == rows
    log = MetricsLog(tmp_path, resume_from=50)
    log.write(51, {"loss": 0.1})
    log.close()
    assert read_metrics(tmp_path) == [*rows[:2], {"step": 51, "loss": 0.1}]
    assert events_of(tmp_path)[1].session_log.status == 1  # START: drop what came later
    assert events_of(tmp_path)[1].step == 51


def test_metrics_of_no_run_or_of_noise_are_none(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff\n[1]\n{"step": "x"}\n{}\n')
    assert read_metrics(tmp_path) == []
