#!/usr/bin/env python3
"""How many cells a second one driver plans, dispatches and records, and how its memory grows: empty work, no Ray.

Workers that answer at once take the place of a cluster's, so that what is measured is the driver alone.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.cluster.driver import Driver, Event
from harness.cluster.worker import Facts, Order, Step
from harness.plan import PlannedCell
from harness.runner import unfinished
from harness.store import Store
from harness.types import Cell, Record


class InstantPool:
    """Workers that answer at once."""

    def __init__(self, n_workers: int) -> None:
        self._n_workers, self._n_started = n_workers, 0
        self._due: deque[tuple[int, Event]] = deque()
        self._left: dict[int, tuple[str, list[str]]] = {}

    def room(self) -> int:
        """All of them."""
        return self._n_workers

    def start(self, interpreter: object) -> int:
        """The next one."""
        self._n_started += 1
        self._due.append((self._n_started, Facts(host="h", pid=0, versions={}, environment={"python": "3"})))
        return self._n_started

    def stop(self, worker: int) -> None:
        """Nothing to do."""

    def send(self, worker: int, order: Order | None, drops: Sequence[str]) -> None:
        """The answer is there already."""
        key, left = self._left.get(worker, ("", []))
        if order is not None:
            key = order.planned.cell.key
            left = list(order.only or [f"s{i}" for i in range(order.planned.cell.n_samples)])
            step = Step(ids=tuple(left), hand=tuple(left[:1]), engine={"attention": "auto"})
        elif not (left := [example_id for example_id in left if example_id not in drops]):
            step = Step(ended=bool(key))
            key = ""
        else:
            record = Record(cell_key=key, example_id=left.pop(0), status="ok", score=1.0)
            step = Step(record=record, hand=tuple(left[:1]), ended=not left)
            key = key if left else ""
        self._left[worker] = key, left
        self._due.append((worker, step))

    def events(self, timeout_s: float) -> Sequence[tuple[int, Event]]:
        """All that is due."""
        found, self._due = self._due, deque()
        return found


class Silent:
    """A progress that says nothing but a line every so many records."""

    def __init__(self, every: int) -> None:
        self._every, self._n, self._began = every, 0, time.perf_counter()
        self.resident: list[int] = []  # bytes, at each line

    def says(self, what: str) -> None:
        """Nothing."""

    def started(self, planned: PlannedCell, done: int) -> None:
        """Nothing."""

    def advanced(self, planned: PlannedCell, record: Record) -> None:
        """A line now and then."""
        self._n += 1
        if self._n % self._every == 0:
            rate = self._n / (time.perf_counter() - self._began)
            self.resident.append(resident_bytes())
            print(f"{self._n:8} records  {rate:8.0f}/s  {self.resident[-1] / 1e6:6.0f} MB resident", flush=True)


def cells(n: int) -> list[PlannedCell]:
    """Empty cells of 4 models under 25 methods."""
    made = []
    for i in range(n):
        model, method = f"model{i % 4}", f"method{i // 4 % 25}"
        cell = Cell(
            model=model, model_params={}, method=method, method_params={}, suite="s", suite_params={}, task=f"t{i}",
            seq_len=1024, n_samples=1, seed=0, dtype="float32", attention="auto", versions=(1, 1), artifacts={},
            method_label=method, suite_label="s",
        )  # fmt: skip
        made.append(PlannedCell(cell=cell, model=_shared(model), method=_shared(method), suite=_shared("s")))
    return made


_SHARED: dict[str, Any] = {}


def _shared(label: str) -> Any:
    return _SHARED.setdefault(label, SimpleNamespace(label=label, interpreter=None))


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Plan, dispatch and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--folder", help="where the store is written (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write what was measured here too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = Store(Path(folder))
        began, began_cpu = time.perf_counter(), time.process_time()
        planned = cells(args.cells)
        plan: Any = SimpleNamespace(
            models=[_shared(f"model{i}") for i in range(4)], methods=[_shared(f"method{i}") for i in range(25)]
        )
        todo = unfinished(plan, store, planned)
        print(f"planned {len(todo)} cells in {time.perf_counter() - began:.1f} s, {resident_bytes() / 1e6:.0f} MB")
        progress = Silent(args.cells // 10)
        Driver(todo, InstantPool(args.workers), store, progress, versions={}).run()
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        n_finished = sum(store.is_finished(each.cell.key) for each in planned)
        print(f"{n_finished} cells planned, dispatched and recorded in {seconds:.1f} s: {n_finished / seconds:.0f}/s")
        print(f"of which this process computed {cpu_s:.1f} s: {n_finished / cpu_s:.0f} cells a second of one core")
        if args.json:
            found = {
                "cells": n_finished, "workers": args.workers, "cores": len(os.sched_getaffinity(0)), "seconds": seconds,
                "cpu_s": cpu_s, "resident_bytes": progress.resident,
            }  # fmt: skip
            args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
