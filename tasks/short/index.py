"""lm-eval's tasks as its YAML files describe them, read without importing lm-eval.

Its own index takes seconds and imports `datasets`; planning needs a few names and their configurations only.
"""

import difflib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from harness.errors import RequestError
from harness.types import JSON

FUNCTION = "!function "  # what a configuration value that is code begins with
# A top-level key of a task file, with the list of lines that may follow it.
_KEY = re.compile(r"^[\"']?(task|group|class|tag|include)[\"']?[ \t]*:[ \t]*(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)
_OF_A_GROUP = {"group", "group_alias", "task", "tag", "aggregate_metric_list", "metadata"}


@dataclass(frozen=True, kw_only=True)
class LeafTask:
    """One lm-eval task: a data set with a prompt and metrics.

    config: its YAML with everything it includes; a function reads `!function folder/module.name`.
    overrides: what a group around it changes.
    code: the Python files its functions stand in.
    """

    name: str
    path: Path
    config: Mapping[str, JSON]
    overrides: Mapping[str, JSON]
    code: tuple[Path, ...]


def lm_eval_folder() -> Path:
    """Where lm-eval is installed. Raises RequestError when it is not."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise RequestError("this suite needs the packages lm_eval and datasets: pip install lm_eval datasets")
    return Path(spec.submodule_search_locations[0])


@cache
def installed_tasks() -> "TaskIndex":
    """The tasks of the installed lm-eval, read once a process: its files do not change under it."""
    return TaskIndex(lm_eval_folder() / "tasks")


class TaskIndex:
    """The tasks, groups and tags under a folder of YAML files."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)

    def leaves(self, name: str) -> tuple[LeafTask, ...]:
        """The task of that name, or those of the group. Raises RequestError."""
        if name in self._files and name not in self._groups:
            return (self._leaf(name, {}),)
        if name in self._groups:
            config = self._load(self._groups[name])
            found = tuple(self._expanded(name, {}))
            self._check_group(name, config, found)
            return found
        if name in self._tags:
            raise RequestError(
                f"lm_eval task '{name}' is a tag without a score of its own: name its tasks, {_some(self._tags[name])}"
            )
        known = [*self._files, *self._tags]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"lm_eval ls tasks prints the {len(known)} there are"
        raise RequestError(f"unknown lm_eval task '{name}': {hint}")

    @cached_property
    def _keys(self) -> dict[str, dict[str, str]]:
        """path -> the top-level keys that name things, as text. In lm-eval's order: of two, the first path counts."""
        paths = [
            os.path.join(folder, file)  # noqa: PTH118 - a Path for each of 14,000 files takes seconds
            for folder, _, files in os.walk(self._root)
            for file in files
            if file.endswith(".yaml")
        ]
        return {path: _keys_of(path) for path in sorted(paths)}

    @cached_property
    def _files(self) -> dict[str, str]:
        """name of a task or group -> its file."""
        found: dict[str, str] = {}
        for path, keys in self._keys.items():
            name = keys.get("group") if "class" not in keys and "group" in keys else keys.get("task")
            if name:
                found.setdefault(_scalar(name), path)
        return found

    @cached_property
    def _groups(self) -> dict[str, str]:
        return {
            name: path
            for name, path in self._files.items()
            if "group" in self._keys[path] and "class" not in self._keys[path]
        }

    @cached_property
    def _tags(self) -> dict[str, list[str]]:
        """tag -> the names of its tasks, sorted."""
        found: dict[str, list[str]] = {}
        for name, path in self._files.items():
            for tag in () if name in self._groups else self._tags_of(path):
                found.setdefault(tag, []).append(name)
        return {tag: sorted(names) for tag, names in found.items() if tag not in self._files}

    def _tags_of(self, path: str) -> Sequence[str]:
        """A file's own tags, else those of what it includes."""
        keys = self._keys.get(path) or _keys_of(path)
        if "tag" in keys:
            return _items(keys["tag"])
        for included in reversed(_items(keys.get("include", ""))):
            if tags := self._tags_of(_included(path, included)):
                return tags
        return ()

    def _expanded(self, name: str, overrides: Mapping[str, JSON]) -> Iterator[LeafTask]:
        if name in self._groups:
            config = self._load(self._groups[name])
            own = {key: value for key, value in config.items() if key not in _OF_A_GROUP}
            yield from self._members(name, config.get("task"), {**own, **overrides})
        elif name in self._files:
            yield self._leaf(name, overrides)
        elif name in self._tags:
            for task in self._tags[name]:
                yield from self._expanded(task, overrides)
        else:
            raise RequestError(
                f"lm_eval task '{name}' is defined inside a group only: only tasks with a file can be run"
            )

    def _members(self, group: str, members: Any, overrides: Mapping[str, JSON]) -> Iterator[LeafTask]:
        for item in members if isinstance(members, list) else []:
            if isinstance(item, str):
                yield from self._expanded(item, overrides)
                continue
            own = {key: value for key, value in item.items() if key not in _OF_A_GROUP}
            if "group" in item and item["group"] not in self._groups:
                yield from self._members(f"{group}::{item['group']}", item.get("task"), {**overrides, **own})
            else:
                yield from self._expanded(str(item.get("group") or item.get("task")), {**overrides, **own})

    def _leaf(self, name: str, overrides: Mapping[str, JSON]) -> LeafTask:
        path = self._files[name]
        config = {**self._load(path), **overrides, "task": name}
        code = {os.path.join(self._root, text.rpartition(".")[0] + ".py") for text in _functions(config)}  # noqa: PTH118
        return LeafTask(
            name=name,
            path=Path(path),
            config=config,
            overrides=dict(overrides),
            code=tuple(Path(file) for file in sorted(code) if Path(file).is_file()),
        )

    def _load(self, path: str) -> dict[str, JSON]:
        """A YAML file over what it includes."""
        loader = _Loader(Path(path).read_text(encoding="utf-8"))
        loader.folder = Path(os.path.relpath(Path(path).parent, self._root)).as_posix()
        config: dict[str, JSON] = loader.get_single_data()
        included = config.pop("include", [])
        merged: dict[str, JSON] = {}
        for file in [included] if isinstance(included, str) else included:
            merged |= {k: v for k, v in self._load(_included(path, file)).items() if k != "task_list"}
        return merged | config

    def _check_group(self, name: str, config: Mapping[str, JSON], found: Sequence[LeafTask]) -> None:
        metrics = config.get("aggregate_metric_list") or []
        metrics = metrics if isinstance(metrics, list) else [metrics]
        if not found or not metrics or not all(metric.get("weight_by_size", True) for metric in metrics):
            why = "weights its tasks evenly" if metrics else "has no score of its own"
            raise RequestError(
                f"lm_eval group '{name}' {why}, and a cell's score is the mean over its samples: "
                f"name its tasks, {_some([leaf.name for leaf in found])}"
            )


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Reads `!function module.name` as a text: code is imported by lm-eval, when a task is built."""

    folder = ""


_Loader.add_constructor(
    "!function", lambda loader, node: f"{FUNCTION}{loader.folder}/{loader.construct_scalar(node).replace('.py', '')}"
)


def _keys_of(path: str) -> dict[str, str]:
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - see _keys
        text = file.read()
    return {match[1]: match[2] for match in _KEY.finditer(text)}


def _included(path: str, included: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(path), included))  # noqa: PTH118, PTH120 - see _keys


@cache
def _items(text: str) -> tuple[str, ...]:
    """A YAML value that is one text or a list of them."""
    value = yaml.safe_load("x: " + text)["x"] if text else None
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),) if value else ()


def _scalar(text: str) -> str:
    return text.partition(" #")[0].strip().strip("\"'")


def _functions(value: JSON) -> Iterator[str]:
    """Every `folder/module.name` in a configuration."""
    if isinstance(value, str) and value.startswith(FUNCTION):
        yield value.removeprefix(FUNCTION)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _functions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _functions(item)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, ... ({len(names)})" if len(names) > 5 else shown
