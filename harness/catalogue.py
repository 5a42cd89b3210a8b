"""Names to classes: the built-in catalogues, entry points, and `pkg.module:Class`; and classes to objects."""

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.metadata import entry_points
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.errors import RequestError, did_you_mean, unknown
from harness.types import JSON

Kind = Literal["method", "suite", "algorithm"]
_HOME = {"method": "methods", "suite": "tasks", "algorithm": "methods.longrope.search"}
_GROUP = {kind: f"longreach.{kind}s" for kind in _HOME}


def names(kind: Kind) -> dict[str, str]:
    """Every name of a kind and where it lives (`module:Class`); installed packages may add to ours."""
    found = {point.name: point.value for point in entry_points(group=_GROUP[kind])}
    return found | importlib.import_module(_HOME[kind]).CATALOGUE


def resolve(kind: Kind, name: str) -> type:
    """The class behind a catalogue name or a `pkg.module:Class`. Raises RequestError."""
    target = name if ":" in name else names(kind).get(name)
    if target is None:
        raise unknown(kind, name, names(kind))
    module, _, attribute = target.partition(":")
    try:
        found: type = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RequestError(f"{kind} '{name}': {error}; it should be an importable 'pkg.module:Class'") from error
    return found


def build(cls: type, params: Mapping[str, JSON], *, where: str) -> Any:
    """An object of a dataclass from TOML values, each checked against the field's type.

    where: how the message names the object, such as `method 'yarn'`. Raises RequestError.
    """
    hints = get_type_hints(cls)
    known = {f.name: hints[f.name] for f in fields(cls)}
    for name in params:
        if name not in known:
            raise RequestError(f"{where} has no setting '{name}': {did_you_mean(name, known)}")
    for f in fields(cls):
        if f.default is MISSING and f.default_factory is MISSING and f.name not in params:
            raise RequestError(f"{where}: the setting '{f.name}' is missing; it should be {describe(known[f.name])}")
    values = {name: convert(value, known[name], where=f"{where}: {name}") for name, value in params.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise RequestError(f"{where}: {error}") from error


def convert(value: JSON, hint: Any, *, where: str) -> Any:
    """A TOML value as the type a field declares, or a RequestError naming both."""
    if get_origin(hint) in (Union, UnionType):
        options = [option for option in get_args(hint) if option is not NoneType]
        if value is None:
            return None
        for option in options:
            try:
                return convert(value, option, where=where)
            except RequestError:
                continue
    elif hint is Any:
        return value
    elif get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        if isinstance(value, str):
            raise RequestError(f"{where} = '{value}': {did_you_mean(value, map(str, get_args(hint)))}")
    elif get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(convert(item, get_args(hint)[0], where=where) for item in value)
    elif (get_origin(hint) or hint) in (dict, Mapping) and isinstance(value, dict):
        return value
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise RequestError(f"{where} = {value!r}: it should be {describe(hint)}")


def describe(hint: Any) -> str:
    """A type as a user reads it."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(describe(option) for option in get_args(hint) if option is not NoneType)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(f"'{option}'" for option in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list, each {describe(get_args(hint)[0])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words.get(hint, "a table")


def expand(text: str, where: str) -> str:
    """A TOML text with `${VAR}` replaced. Raises RequestError for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise RequestError(f"{where} = '{text}': the variable {match[1]} is not set")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)
