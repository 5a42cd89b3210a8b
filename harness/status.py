"""How far a run is, for whoever asks from outside: a small file in its folder, renewed at most once a second."""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.pace import Pace
from harness.plan import PlannedCell
from harness.store import Store, write_atomically
from harness.types import JSON, Record

STATUS = "status.json"
_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """A worker now. left: samples of what it does. n_done: those it has answered."""

    name: str
    host: str
    doing: str
    left: int
    n_done: int
    samples_per_s: float


class StatusFile:
    """Follows a run over `todo`, as a `harness.runner.Progress`. Without `workers`, this process is the only one."""

    def __init__(self, folder: Path, todo: Sequence[PlannedCell], *, executor: str) -> None:
        self._path, self._executor = folder / STATUS, executor
        self._pace = Pace(todo)
        self._began, self._written = time.time(), 0.0
        self._workers: Sequence[WorkerRow] | None = None
        self._doing, self._left = "starting", 0

    def says(self, what: str) -> None:
        """What is done beside the samples."""
        self._doing = what
        self._write()

    def started(self, planned: PlannedCell, done: int) -> None:
        """A cell begins, or goes on after `done` samples."""
        self._doing, self._left = planned.path, planned.cell.n_samples - done
        self._pace.started(planned, done)
        self._write()

    def advanced(self, planned: PlannedCell, record: Record) -> None:
        """A sample has its record."""
        self._pace.advanced(planned, record)
        self._left -= 1
        self._write()

    def workers(self, rows: Sequence[WorkerRow] | None) -> None:
        """What each worker does; None for this process alone."""
        self._workers = rows
        self._write()

    def _write(self) -> None:
        now = time.time()
        if now - self._written < _EVERY_S or not self._path.parent.is_dir():
            return
        self._written = now
        write_atomically(self._path, json.dumps(self._contents(now), indent=1) + "\n")

    def _contents(self, now: float) -> dict[str, JSON]:
        pace, seconds = self._pace, now - self._began
        n_here = pace.n_done - pace.n_before
        rate = n_here / max(seconds, 1e-9)
        here = WorkerRow(
            name="0", host=f"{socket.gethostname()}:{os.getpid()}", doing=self._doing, left=max(0, self._left),
            n_done=n_here, samples_per_s=rate,
        )  # fmt: skip
        return {
            "executor": self._executor,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "written": now,
            "seconds": seconds,
            "n_samples": pace.n_samples,
            "n_done": pace.n_done,
            "n_failed": pace.n_failed,
            "samples_per_s": rate,
            "left_s": pace.left_s(seconds),
            "workers": [asdict(row) for row in ([here] if self._workers is None else self._workers)],
        }


class Both:
    """Tells two who follow a run."""

    def __init__(self, *followers: Any) -> None:
        self._followers = followers

    def says(self, what: str) -> None:
        """What is done beside the samples."""
        for follower in self._followers:
            follower.says(what)

    def started(self, planned: PlannedCell, done: int) -> None:
        """A cell begins, or goes on after `done` samples."""
        for follower in self._followers:
            follower.started(planned, done)

    def advanced(self, planned: PlannedCell, record: Record) -> None:
        """A sample has its record."""
        for follower in self._followers:
            follower.advanced(planned, record)


def status_text(folder: Path) -> str:
    """How far a run is, in lines. Raises RequestError for a folder without a run."""
    store = Store(folder)
    manifest = store.manifest()
    if manifest is None:
        raise RequestError(f"{folder} holds no run: there is no run.json in it")
    keys = [cell["key"] for cell in manifest["cells"]]
    n_finished = sum(store.is_finished(key) for key in keys)
    lines = [f"{manifest['title']}: {n_finished} of {len(keys)} cells finished"]
    if n_finished == len(keys):
        return lines[0]
    path = folder / STATUS
    status = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if status is None or not _is_running(status):
        return "\n".join([*lines, "nothing runs now: the same `run` command goes on from here"])
    return "\n".join([*lines, *_lines(status)])


def _is_running(status: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status is there; of another machine's, whether it wrote lately."""
    if status["host"] != socket.gethostname():
        return bool(time.time() - status["written"] < 60 * _EVERY_S)
    try:
        os.kill(status["pid"], 0)
    except OSError:
        return False
    return True


def _lines(status: Mapping[str, Any]) -> list[str]:
    from harness.progress import time_left

    left = "no estimate yet" if status["left_s"] is None else f"about {time_left(status['left_s'])}"
    failed = f", {status['n_failed']} failed" if status["n_failed"] else ""
    workers = status["workers"]
    head = (
        f"{status['n_done']} of {status['n_samples']} samples{failed}, {status['samples_per_s']:.3g} samples/s, "
        f"{left}; {status['executor']}, {len(workers)} worker{'s' * (len(workers) != 1)}, "
        f"{max(0, time.time() - status['written']):.0f} s ago"
    )
    rows = [
        f"  {row['name']:>4}  {row['samples_per_s']:8.3g}/s  {row['left']:5} left  {row['doing']}  {row['host']}"
        for row in workers
    ]
    return [head, *rows]
