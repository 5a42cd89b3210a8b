"""Workers as child processes of this one, under its interpreter or those that methods name. No Ray is needed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from pathlib import Path
from signal import Signals
from typing import IO, Any

from harness.cluster.driver import Event, Loss
from harness.cluster.worker import Facts, Order
from harness.environment import n_cores
from harness.errors import RequestError
from harness.interpreters import Interpreter
from harness.plan import PlannedCell, RunSettings

_CHILD = Path(__file__).with_name("child.py")


@dataclass(kw_only=True)
class _Process:
    """A child, and what it wrote besides its answers."""

    process: subprocess.Popen[bytes]
    connection: Connection
    output: IO[bytes]

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()
        self.output.close()

    def last_words(self) -> str:
        """Why it ended: the signal, or the last line that it wrote."""
        code = self.process.wait()
        if code < 0:
            return f"{Signals(-code).name} ended its process"
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"its process ended with exit code {code}"


class ProcessPool:
    """At most `n` child processes on one device; they share the machine's cores."""

    def __init__(self, run: RunSettings, *, device: str, n: int = 1) -> None:
        self._run, self._device, self._n = run, device, n
        self._children: dict[int, _Process] = {}
        self._n_started = 0

    def room(self) -> int:
        """How many workers there may be."""
        return self._n

    def start(self, interpreter: Interpreter | None = None) -> int:
        """A new worker, under this process's interpreter where none is named."""
        worker = self._n_started
        self._n_started += 1
        self._children[worker] = child = self._started(interpreter)
        _say(child, (self._run, self._device, interpreter is not None))
        return worker

    def stop(self, worker: int) -> None:
        """End a worker, if it has not ended."""
        if child := self._children.pop(worker, None):
            child.end()

    def send(self, worker: int, order: Order | None, drops: Sequence[str]) -> None:
        """Ask a worker for a step."""
        _say(self._children[worker], (order, tuple(drops)))

    def events(self, timeout_s: float) -> Sequence[tuple[int, Event]]:
        """What workers answered; waits for the first. One that ended is a loss."""
        whose: dict[Any, int] = {child.connection: worker for worker, child in self._children.items()}
        found: list[tuple[int, Event]] = []
        for ready in connections.wait(list(whose), timeout_s):
            worker = whose[ready]
            child = self._children[worker]
            try:
                found.append((worker, child.connection.recv()))
            except (EOFError, OSError):
                found.append((worker, Loss(reason=child.last_words())))
                self.stop(worker)
        return found

    def _started(self, interpreter: Interpreter | None) -> _Process:
        """A child with a pair of sockets between it and this process; another environment sees nothing of this one."""
        ours, theirs = connections.Pipe()
        output = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the child
        python = [interpreter.path, "-I"] if interpreter else [sys.executable, "-P"]
        with theirs:
            process = subprocess.Popen(
                [*python, str(_CHILD), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_threads(self._n) | os.environ,
                start_new_session=True,  # an interrupt is for this process, which ends them
            )
        return _Process(process=process, connection=ours, output=output)


def _threads(n_workers: int) -> dict[str, str]:
    """What each of several workers on a machine's cores is told."""
    return {"OMP_NUM_THREADS": str(max(1, n_cores() // n_workers))} if n_workers > 1 else {}


def check_starts(cells: Iterable[PlannedCell], run: RunSettings) -> None:
    """Raises RequestError where an interpreter that a method names cannot start a worker; each is started once."""
    for where, interpreter in interpreters_of(cells).items():
        pool = ProcessPool(run, device="cpu")
        worker, said = pool.start(interpreter), None
        try:
            while said is None:
                said = next((event for _, event in pool.events(1.0)), None)
        finally:
            pool.stop(worker)
        if not isinstance(said, Facts):
            reason = said.reason if isinstance(said, Loss) else "it answers something else"
            raise RequestError(f"{where} cannot start a worker: {reason}")


def interpreters_of(cells: Iterable[PlannedCell]) -> dict[str, Interpreter]:
    """Where a preset names an interpreter -> that one, each once."""
    found: dict[str, tuple[str, Interpreter]] = {}
    for planned in cells:
        if (interpreter := planned.method.interpreter) is not None:
            where = f"method '{planned.method.label}': python = '{interpreter.path}'"
            found.setdefault(interpreter.path, (where, interpreter))
    return dict(found.values())


def _say(child: _Process, what: Any) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it is gone: `events` says so
        child.connection.send(what)
