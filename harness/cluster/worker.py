"""A process that answers: it keeps one model, and gives back one record a step. Knows no Ray."""

import os
import platform
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.answering import DeviceLostError
from harness.environment import device_facts, gather, package_version
from harness.errors import RequestError
from harness.interpreters import NEEDED, Interpreter, probe
from harness.models import request as models
from harness.plan import PlannedCell, RunSettings
from harness.runner import Answers
from harness.samples import SampleCache
from harness.types import JSON, Example, Record, content_hash


@dataclass(frozen=True, kw_only=True)
class Order:
    """Samples of one cell to answer. only: these, or None for all but `done`. alone: not together with others.

    samples: the hash that those of the cell must have, where they could come out otherwise.
    """

    planned: PlannedCell
    done: frozenset[str] = frozenset()
    only: tuple[str, ...] | None = None
    alone: frozenset[str] = frozenset()
    samples: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step came to.

    ids: the samples of a new order. record: a sample is done. hand: what is answered next. ended: all of the order is
    done. leaving: why the worker answers nothing more. refused: one line, what is wrong with the request.
    """

    ids: tuple[str, ...] | None = None
    record: Record | None = None
    hand: tuple[str, ...] = ()
    ended: bool = False
    engine: Mapping[str, JSON] = field(default_factory=dict)
    leaving: str = ""
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Who a worker is. versions: what must be the driver's own. node: the cluster's name for its machine."""

    host: str
    pid: int
    versions: Mapping[str, str]
    environment: Mapping[str, JSON]
    node: str = ""

    @classmethod
    def here(cls, found: Mapping[str, str], device: str, n_devices: int = 1) -> "Facts":
        """Those of this process."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            versions=found,
            environment={**gather(), **device_facts(device, n_devices)},
        )


def versions() -> dict[str, str]:
    """What must be the same everywhere for records to be the same; `longreach` names the source code too."""
    return {
        "Python": platform.python_version(),
        "torch": str(package_version("torch")),
        "transformers": str(package_version("transformers")),
        "Longreach": f"{package_version('longreach') or 'not installed'} (source {_source_hash()})",
    }


def versions_under(interpreter: Interpreter) -> dict[str, str]:
    """What a worker under a method's own interpreter must have: all that is installed there, and this source code."""
    return {**interpreter.versions, "Longreach": f"(source {_source_hash()})"}


def source_changed(longreach: str) -> bool:
    """Whether the source on this machine is not the one any more that `versions` named so."""
    return f"(source {_source_hash.__wrapped__()})" not in longreach and "(source " in longreach


class Worker:
    """Answers orders with a model that stays loaded until an order needs another one.

    own: it runs under an interpreter that its methods name.
    """

    def __init__(self, run: RunSettings, device: str, own: bool = False) -> None:
        self._run, self._device, self._own = run, device, own
        self._samples = SampleCache()
        self._answers: Answers | None = None
        self._request: Any = None
        self._order: Order | None = None
        self._wanted: set[str] = set()
        self._parts: Iterator[list[Example]] = iter(())
        self._part: list[Example] = []
        self._records: Iterator[Record] | None = None
        self._leaving = ""
        signal.signal(signal.SIGTERM, self._asked_to_stop)

    def facts(self) -> Facts:
        """Who this is."""
        return Facts.here(self._versions(), self._device, self._run.n_devices)

    def _versions(self) -> dict[str, str]:
        found = versions()
        if not self._own:
            return found
        here = {name: found[name] for name in ("Python", *NEEDED)}  # those that were imported
        return {**versions_under(probe(sys.executable, sys.executable)), **here}

    def step(self, order: Order | None = None, drops: Sequence[str] = ()) -> Step:
        """Begin an order, or answer the next sample of the one that was begun, without those of `drops`."""
        if self._leaving:
            return Step(leaving=self._leaving)
        try:
            step = self._begin(order) if order else self._next(drops)
        except RequestError as error:
            return Step(refused=str(error))
        except DeviceLostError as error:
            self._leaving = f"the GPU was lost: {error}"
            return Step(leaving=self._leaving)
        return step

    def _asked_to_stop(self, *_: object) -> None:
        self._leaving = "it was asked to stop (SIGTERM)"

    def _begin(self, order: Order) -> Step:
        planned = order.planned
        answers = self._loaded(planned)
        if order.samples and self._samples.sha256(planned) != order.samples:
            raise RequestError(
                f"{planned.path}: its samples come out otherwise under {sys.executable} (transformers "
                f"{package_version('transformers')}) than for the other methods: install their version there"
            )
        ids = self._samples.ids(planned) if order.only is None else order.only
        ids = tuple(example_id for example_id in ids if example_id not in order.done)
        self._order, self._wanted = order, set(ids)
        self._part, self._records = [], None
        self._parts = self._in_parts(answers, order)
        return Step(ids=ids, **self._ahead(answers))

    def _loaded(self, planned: PlannedCell) -> Answers:
        """The model of a cell; the old one makes room first."""
        if self._answers is None or self._request != planned.model:
            from harness.models.backends import close, load

            if self._answers is not None:
                close(self._answers.model)
            self._answers = None
            _check_files(planned)
            run = self._run
            model = load(planned.model, device=self._device, may_offload=run.kv_offload, n_devices=run.n_devices)
            self._answers, self._request = Answers(model=model, run=run), planned.model
        _check_texts(planned)
        return self._answers

    def _in_parts(self, answers: Answers, order: Order) -> Iterator[list[Example]]:
        examples = (example for example in self._samples.of(order.planned) if example.id in self._wanted)
        for group in answers.groups(order.planned, examples):
            yield [example for example in group if example.id not in order.alone]
            yield from ([example] for example in group if example.id in order.alone)

    def _next(self, drops: Sequence[str]) -> Step:
        if self._order is None or self._answers is None:
            return Step()
        self._wanted.difference_update(drops)
        if any(example.id not in self._wanted for example in self._part):
            self._records = None  # the rest of the part begins again without them
        if not self._find():
            return Step(**self._ahead(self._answers))
        if self._records is None:
            self._records = self._answers.records(self._order.planned, self._part)
        record = next(self._records)
        self._wanted.discard(record.example_id)
        self._part = [example for example in self._part if example.id != record.example_id]
        return Step(record=record, **self._ahead(self._answers))

    def _find(self) -> bool:
        """Whether there is a part with samples that are still wanted."""
        while True:
            self._part = [example for example in self._part if example.id in self._wanted]
            if self._part:
                return True
            self._records = None
            following = next(self._parts, None)
            if following is None:
                return False
            self._part = following

    def _ahead(self, answers: Answers) -> dict[str, Any]:
        assert self._order is not None
        engine = answers.engine(self._order.planned)
        if self._find():
            rows = _rows(answers.model, self._part, self._run)
            return {"hand": tuple(example.id for example in self._part[:rows]), "engine": engine}
        self._order = None
        return {"ended": True, "engine": engine}


def _rows(model: Any, part: Sequence[Example], run: RunSettings) -> int:
    """How many of these samples are on their way at once."""
    if len(part) == 1 or run.sample_timeout_s > 0 or not hasattr(model, "answer_each") or part[0].segments:
        return 1
    from harness.models.memory import rows_that_fit

    return max(1, rows_that_fit(model, max(example.n_tokens for example in part)))


def _check_files(planned: PlannedCell) -> None:
    """Raises RequestError where this machine's files of the model are not those that the run was planned with."""
    models.check(planned.model)
    if models.model_params(planned.model) != planned.cell.model_params:
        raise RequestError(
            f"model '{planned.cell.model}': on {socket.gethostname()} its backend is another one "
            f"({models.model_params(planned.model).get('backend')}) than where the run was planned "
            f"({planned.cell.model_params.get('backend')}): give every node the same vllm"
        )
    _compare(planned, models.identity(planned.model), f"model '{planned.cell.model}'")


def _check_texts(planned: PlannedCell) -> None:
    method = planned.method.method
    if hasattr(method, "artifacts"):
        _compare(planned, method.artifacts(), f"method '{planned.cell.method_label}'")
    _compare(planned, planned.suite.suite.artifacts(planned.cell.task), f"suite '{planned.cell.suite_label}'")


def _compare(planned: PlannedCell, here: Mapping[str, str], what: str) -> None:
    for name, found in here.items():
        if planned.cell.artifacts.get(name) != found:
            raise RequestError(
                f"{what}: on {socket.gethostname()} its {name} is another one (sha256 {found[:12]}) than where the "
                f"run was planned (sha256 {str(planned.cell.artifacts.get(name))[:12]}): give every node the same files"
            )


@cache
def _source_hash() -> str:
    """Of everything that a record can depend on."""
    root = Path(__file__).parents[2]
    paths = sorted(path for name in ("harness", "methods", "tasks") for path in (root / name).rglob("*.py"))
    return content_hash({str(path.relative_to(root)): content_hash(path.read_bytes()) for path in paths})[:12]
