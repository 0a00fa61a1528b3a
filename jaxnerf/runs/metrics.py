"""The metrics that a run reports during training: metrics.jsonl, and the same for TensorBoard."""

import contextlib
import json
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxnerf.runs.files import KEPT, disk_errors, write_text

_SECONDS_BETWEEN_FLUSHES = 10.0


class MetricsLog:
    """metrics.jsonl and, if tensorboardX is installed, TensorBoard events of a run.

    The events are written by tensorboardX's record writer alone. Its SummaryWriter writes them in a
    thread, which ends when the disk is full, so that training would wait for it forever.

    Attributes:
      with_events: whether there are events.
    """

    def __init__(self, folder: Path, resume_from: int = 0):
        """Open the files for appending; lines after the step from which training resumes are removed."""
        self.with_events = find_spec("tensorboardX") is not None
        path = folder / "metrics.jsonl"
        self._folder, self._flushed_at = folder, time.monotonic()
        with disk_errors(folder, KEPT):
            rows = [row for row in read_metrics(folder) if row["step"] <= resume_from]
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
            self._file = path.open("a", encoding="utf-8")
            if self.with_events:
                self._open_events(resume_from)

    def _open_events(self, resume_from: int) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._events = RecordWriter(str(self._folder / name))
        self._event: Any = event_pb2.Event  # type: ignore[attr-defined]
        self._add(file_version="brain.Event:2")
        if resume_from:  # TensorBoard then drops later events of another process
            self._add(step=resume_from + 1, session_log={"status": "START"})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append a report."""
        with disk_errors(self._folder, KEPT):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            if not self.with_events:
                return
            from tensorboardX.summary import scalar

            for name, value in values.items():
                self._add(step=step, summary=scalar(name, value))
            if time.monotonic() - self._flushed_at > _SECONDS_BETWEEN_FLUSHES:
                self._events.flush()
                self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Write the remaining data and close the files."""
        with disk_errors(self._folder, KEPT):
            try:
                self._file.close()
            finally:
                if self.with_events:
                    self._events.close()

    def _add(self, **content: Any) -> None:
        self._events.write(self._event(wall_time=time.time(), **content).SerializeToString())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line that was cut off when the process was killed is ignored."""
    path = folder / "metrics.jsonl"
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows
