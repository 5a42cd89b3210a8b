"""A TOML preset to a validated plan: every name is resolved here, and nothing is loaded."""

import importlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from harness import interpreters
from harness.catalogue import build, convert, expand, resolve
from harness.errors import RequestError, unknown
from harness.models import request as models
from harness.models.request import ModelRequest
from harness.plan import Plan, PlannedMethod, PlannedSuite, RunSettings
from harness.report_settings import ReportSettings, check_groups
from harness.types import JSON

PRESETS = Path(__file__).parent / "presets"
PresetKind = Literal["run", "search", "train"]  # which verb takes it


@dataclass(frozen=True, kw_only=True)
class _Preset:
    """The top level of a preset's TOML."""

    seq_lens: tuple[int, ...]
    title: str = ""
    seed: int = 0
    n_samples: int = 20
    target_length: int | Literal["request"] | None = None
    model: Any = None
    method: Any = None
    suite: Any = None
    report: Mapping[str, JSON] = field(default_factory=dict)
    run: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_lengths(self.seq_lens)
        if isinstance(self.target_length, int) and self.target_length < 1:
            raise ValueError(f"target_length = {self.target_length}: it should be a positive number of tokens")
        if self.n_samples < 1:
            raise ValueError(f"n_samples = {self.n_samples}: it should be at least 1")


def preset_names(kind: PresetKind = "run") -> list[str]:
    """The presets that come with Longreach, for one verb: those of `search` and `train` have a folder each."""
    folder = _folder(kind)
    names = (path.relative_to(folder) for path in folder.rglob("*.toml"))
    others = () if kind != "run" else ("search", "train")
    return sorted(name.with_suffix("").as_posix() for name in names if name.parts[0] not in others)


def find_preset(name: str, kind: PresetKind = "run") -> Path:
    """The file of a preset given by its name or its path. Raises RequestError."""
    for path in (_folder(kind) / f"{name}.toml", Path(name)):
        if path.is_file():
            return path
    what = "preset" if kind == "run" else f"{kind} configuration"
    if name.endswith(".toml") or "/" in name:
        raise RequestError(f"{what} '{name}': there is no such file")
    raise unknown(what, name, preset_names(kind))


def preset_title(name: str, kind: PresetKind = "run") -> str:
    """What a preset calls itself."""
    return str(read_toml(find_preset(name, kind)).get("title", ""))


def _folder(kind: PresetKind) -> Path:
    return PRESETS if kind == "run" else PRESETS / kind


def read_toml(path: Path) -> dict[str, JSON]:
    """A TOML file as a dictionary. Raises RequestError with the line that is wrong."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{path}: {error}") from error


def load_plan(name: str) -> Plan:
    """The plan of a preset, by its name or its path. Raises RequestError for whatever is wrong in it."""
    path = find_preset(name)
    preset: _Preset = build(_Preset, read_toml(path), where=f"preset '{path.stem}'")
    suites = tuple(_suite(table, preset, path.parent) for table in _tables(preset.suite, "suite", path.stem))
    target = preset.target_length or max(max(suite.seq_lens) for suite in suites)
    environments: dict[Path, interpreters.Interpreter] = {}
    methods = tuple(
        _run_method(table, None if target == "request" else target, path.parent, environments)
        for table in _tables(preset.method, "method", path.stem)
    )
    requests = tuple(model_request(table, path.parent) for table in _tables(preset.model, "model", path.stem))
    _check_labels("model", [str(request.label) for request in requests])
    _check_labels("method", [method.label for method in methods])
    _check_labels("suite", [suite.label for suite in suites])
    report: ReportSettings = build(ReportSettings, preset.report, where="report")
    if not report.base:
        report = build(ReportSettings, {**preset.report, "base": methods[0].label}, where="report")
    if report.base not in {method.label for method in methods}:
        raise unknown("method in report.base", report.base, [method.label for method in methods])
    if report.groups:
        check_groups(report.groups, {s.label: {s.suite.metric(task).kind for task in s.tasks} for s in suites})
    if report.published:
        importlib.import_module("reports.published").find(report.published)
    for request in requests:
        models.check(request)
    plan = Plan(
        title=preset.title or path.stem,
        preset=path.stem,
        seed=preset.seed,
        models=requests,
        methods=methods,
        suites=suites,
        report=report,
        run=build(RunSettings, preset.run, where="run"),
    )
    if any(request.backend == "vllm" for request in requests):
        from harness.models.vllm.check import check_plan

        check_plan(plan)
    return plan


def _tables(value: Any, kind: str, preset: str) -> list[dict[str, JSON]]:
    tables = [value] if isinstance(value, dict) else value
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise RequestError(f"preset '{preset}' has no {kind}: write a table [[{kind}]]")
    for table in tables:
        if not isinstance(table.get("name"), str):
            raise RequestError(f"preset '{preset}': a {kind} has no name: write name = \"...\" under [[{kind}]]")
    return tables


def model_request(table: Mapping[str, JSON], folder: Path) -> ModelRequest:
    """A `[model]` table as a request; a folder may be named from the preset's. Raises RequestError."""
    table = dict(table)
    name = expand(str(table["name"]), f"model '{table['name']}'")
    table["name"] = str(folder / name) if (folder / name).is_dir() and "/" in name else name
    request: ModelRequest = build(ModelRequest, table, where=f"model '{table['name']}'")
    return request


def planned_method(table: Mapping[str, JSON], target_length: int | None, folder: Path) -> PlannedMethod:
    """A `[[method]]` table as a method; its files may be named from the preset's folder. Raises RequestError.

    target_length: what a method is set for that can be and says nothing else.
    """
    name = str(table["name"])
    cls = resolve("method", name)
    settings = {key: value for key, value in table.items() if key not in ("name", "label")}
    if target_length and getattr(cls, "uses_target", False) and not settings.keys() & {"target_length", "factor"}:
        settings["target_length"] = target_length
    where = f"method '{name}'"
    method = build(cls, resolve_paths(cls, settings, folder, where), where=where)
    artifacts = method.artifacts() if hasattr(method, "artifacts") else {}
    return PlannedMethod(
        label=_label(table, name), name=name, params=key_params(method), artifacts=artifacts, method=method
    )


def _run_method(
    table: Mapping[str, JSON], target: int | None, folder: Path, known: dict[Path, interpreters.Interpreter]
) -> PlannedMethod:
    """A method of a run, which may name its own `python`: what is installed there enters the key."""
    planned = planned_method({k: v for k, v in table.items() if k != "python"}, target, folder)
    if "python" not in table:
        return planned
    where = f"method '{planned.label}': python"
    path = folder / expand(convert(table["python"], str, where=where), where)
    found = known[path] = known.get(path) or interpreters.named(path, where)
    return replace(planned, interpreter=found, artifacts={**planned.artifacts, interpreters.ARTIFACT: found.sha256})


def _suite(table: Mapping[str, JSON], preset: _Preset, folder: Path) -> PlannedSuite:
    name = str(table["name"])
    cls = resolve("suite", name)
    where = f"suite '{name}'"
    ours = {"name", "label", "tasks", "seq_lens", "n_samples"}
    settings = {key: value for key, value in table.items() if key not in ours}
    suite = build(cls, resolve_paths(cls, settings, folder, where), where=where)
    grid: _SuiteGrid = build(_SuiteGrid, {k: table[k] for k in ours - {"name", "label"} if k in table}, where=where)
    tasks = grid.tasks or suite.tasks()
    for task in tasks:
        suite.check(task)
    _check_labels(f"task of {where}", list(tasks))
    seq_lens = grid.seq_lens or preset.seq_lens
    n_samples = grid.counts(len(seq_lens)) or (preset.n_samples,) * len(seq_lens)
    if len(n_samples) != len(seq_lens):
        raise RequestError(
            f"{where}: n_samples = {list(n_samples)}: it should be one number, or one for each of seq_lens = "
            f"{list(seq_lens)}"
        )
    order = sorted(range(len(seq_lens)), key=lambda i: seq_lens[i])
    return PlannedSuite(
        label=_label(table, name),
        name=name,
        params=key_params(suite),
        tasks=tasks,
        seq_lens=tuple(seq_lens[i] for i in order),
        n_samples=tuple(n_samples[i] for i in order),
        suite=suite,
    )


@dataclass(frozen=True, kw_only=True)
class _SuiteGrid:
    """What a suite's table may say beside the suite's own settings. n_samples: of every length, or one for each."""

    tasks: tuple[str, ...] = ()
    seq_lens: tuple[int, ...] | None = None
    n_samples: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.seq_lens is not None:
            _check_lengths(self.seq_lens)
        if self.n_samples == () or any(n < 1 for n in self.counts(1)):
            raise ValueError(f"n_samples = {self.n_samples}: it should be at least 1")

    def counts(self, n_lengths: int) -> tuple[int, ...]:
        """`n_samples` of so many lengths; empty where the table says none."""
        if isinstance(self.n_samples, int):
            return (self.n_samples,) * n_lengths
        return self.n_samples or ()


def _check_lengths(seq_lens: tuple[int, ...]) -> None:
    if not seq_lens:
        raise ValueError("seq_lens = []: it should name at least one length")
    for seq_len in seq_lens:
        if seq_len < 1:
            raise ValueError(f"seq_lens holds {seq_len}: a length should be a positive number of tokens")
    if len(set(seq_lens)) < len(seq_lens):
        raise ValueError(f"seq_lens = {list(seq_lens)}: a length is named twice")


def _label(table: Mapping[str, JSON], name: str) -> str:
    label = table.get("label", name)
    if not isinstance(label, str) or not label:
        raise RequestError(f"'{name}': label = {label!r}: it should be a text")
    return label


def _check_labels(kind: str, labels: list[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            raise RequestError(f"two entries of {kind} are called '{label}': give each its own label = \"...\"")


def _path_fields(cls: type) -> set[str]:
    return {f.name for f in fields(cls) if f.metadata.get("path")}


def key_params(thing: Any) -> dict[str, JSON]:
    """The settings that enter the key: all but paths, whose contents are hashed as artifacts."""
    return {f.name: getattr(thing, f.name) for f in fields(thing) if f.name not in _path_fields(type(thing))}


def resolve_paths(cls: type, settings: Mapping[str, JSON], folder: Path, where: str) -> dict[str, JSON]:
    """Path settings made absolute: `${VAR}` expanded, relative ones taken from the preset's folder.

    A bare name that is no file beside the preset is left alone: it may name something packaged.
    """
    resolved = dict(settings)
    for name in _path_fields(cls) & settings.keys():
        value = settings[name]
        if isinstance(value, str):
            text = expand(value, f"{where}: {name}")
            is_path = os.sep in text or (folder / text).exists()
            resolved[name] = str((folder / text).absolute()) if is_path else text
    return resolved
