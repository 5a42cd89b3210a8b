"""What a run is to do: a validated grid of models, methods, suites, tasks and lengths, and what bounds it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness import interpreters
from harness.models import request as models
from harness.models.request import ModelRequest
from harness.report_settings import ReportSettings
from harness.types import JSON, Cell, content_hash


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What bounds a run without moving a number.

    sample_timeout_s: seconds a sample may take, alone then; 0 is no bound.
    early_stop: a generation ends when its score can no longer change, where the suite can tell; its record says so.
    kv_offload: keys and values may go to host memory where a GPU's runs out.
    gpus: of a cluster's worker, a part of one or several, over which its model is spread; where nothing is said one, or
        none on a cluster without GPUs. Without a cluster it says how many GPUs the model is spread over.
    """

    sample_timeout_s: float = 0.0
    early_stop: bool = True
    kv_offload: bool = False
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.sample_timeout_s < 0:
            raise ValueError(f"sample_timeout_s = {self.sample_timeout_s:g}: it should be 0 or more")
        if self.gpus is not None and not (0 <= self.gpus <= 1 or (self.gpus >= 1 and self.gpus % 1 == 0)):
            raise ValueError(f"gpus = {self.gpus:g}: it should be 0, a part such as 0.5, or a whole number")

    @property
    def n_devices(self) -> int:
        """GPUs that a model is spread over."""
        return max(1, int(self.gpus or 1))


@dataclass(frozen=True, kw_only=True)
class PlannedMethod:
    """A method with its settings. `params` is what enters a cell's key. interpreter: of an environment of its own."""

    label: str
    name: str
    params: Mapping[str, JSON]
    artifacts: Mapping[str, str]
    method: Any
    interpreter: interpreters.Interpreter | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedSuite:
    """A suite with its settings, tasks and lengths. n_samples: of each length, in the order of `seq_lens`."""

    label: str
    name: str
    params: Mapping[str, JSON]
    tasks: tuple[str, ...]
    seq_lens: tuple[int, ...]
    n_samples: tuple[int, ...]
    suite: Any

    def n_available(self, task: str) -> tuple[int, ...]:
        """The planned samples of each length, or all there are where a data set has fewer."""
        available = getattr(self.suite, "n_available", None)
        return tuple(min(n, available(task)) for n in self.n_samples) if available else self.n_samples


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell and the objects that produce it."""

    cell: Cell
    model: ModelRequest
    method: PlannedMethod
    suite: PlannedSuite

    @property
    def path(self) -> str:
        """`model/method/suite/task/seq_len`, what `--only` matches."""
        cell = self.cell
        return f"{cell.model}/{cell.method_label}/{cell.suite_label}/{cell.task}/{cell.seq_len}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A validated grid: models x methods x suites x tasks x lengths."""

    title: str
    preset: str
    seed: int
    models: tuple[ModelRequest, ...]
    methods: tuple[PlannedMethod, ...]
    suites: tuple[PlannedSuite, ...]
    report: ReportSettings
    run: RunSettings

    @cached_property
    def cells(self) -> tuple[PlannedCell, ...]:
        """Every cell, in the preset's order."""
        return tuple(self._cells())

    @property
    def longest(self) -> int:
        """The longest length of the grid."""
        return max(max(suite.seq_lens) for suite in self.suites)

    def _cells(self) -> Iterator[PlannedCell]:
        artifacts = {(s.label, task): s.suite.artifacts(task) for s in self.suites for task in s.tasks}
        for model in self.models:
            identity = models.identity(model)
            for method in self.methods:
                for suite in self.suites:
                    for task in suite.tasks:
                        for seq_len, n_samples in zip(suite.seq_lens, suite.n_available(task), strict=True):
                            cell = Cell(
                                model=str(model.label),
                                model_params=models.model_params(model),
                                method=method.name,
                                method_params=method.params,
                                suite=suite.name,
                                suite_params=suite.params,
                                task=task,
                                seq_len=seq_len,
                                n_samples=n_samples,
                                seed=self.seed,
                                dtype=model.dtype,
                                attention=model.attention,
                                versions=(method.method.version, suite.suite.version),
                                artifacts={**identity, **method.artifacts, **artifacts[suite.label, task]},
                                method_label=method.label,
                                suite_label=suite.label,
                            )
                            yield PlannedCell(cell=cell, model=model, method=method, suite=suite)

    @property
    def key(self) -> str:
        """sha256 of everything that makes two runs the same run."""
        report = {name: value for name, value in self.report.as_json().items() if name != "published"}
        labels = [(c.cell.key, c.cell.method_label, c.cell.suite_label) for c in self.cells]
        return content_hash([labels, report])
