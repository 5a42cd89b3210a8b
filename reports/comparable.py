"""Whether two runs may be compared: what their samples, models, precision and attention are, and where they differ."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.types import JSON
from reports.cells import CellResult
from reports.text import flat

MismatchKind = Literal["samples", "model", "dtype", "attention", "backend"]
MISMATCH_KINDS: tuple[MismatchKind, ...] = get_args(MismatchKind)
# Never compared: what two engines make of the same weights says nothing of what changed.
NOT_ALLOWED: tuple[MismatchKind, ...] = ("backend",)

_MODEL_FILES = ("weights", "config", "commit")
_TOKENIZER = "tokenizer"  # which holds the chat template
_SHOWN = 16  # characters of a hash


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """One thing that differs, and how much of the comparison it touches."""

    kind: MismatchKind
    what: str
    base: str
    new: str


def mismatches(
    base: Mapping[str, JSON], new: Mapping[str, JSON], both: Iterable[tuple[CellResult, CellResult]]
) -> list[Mismatch]:
    """What makes the cells of two runs incomparable, each difference once."""
    found: dict[Mismatch, None] = {}
    for ours, theirs in both:
        facts = _facts(base, ours.entry), _facts(new, theirs.entry)
        ran = _backends(ours), _backends(theirs)
        if all(ran):
            for side, backends in zip(facts, ran, strict=True):
                side["attention", "the attention that ran"] = backends
        for name in dict.fromkeys([*facts[0], *facts[1]]):
            values = facts[0].get(name), facts[1].get(name)
            if values[0] != values[1]:
                found[Mismatch(kind=name[0], what=name[1], base=_shown(values[0]), new=_shown(values[1]))] = None
    return list(found)


def notes(base: Mapping[str, JSON], new: Mapping[str, JSON], methods: Sequence[str]) -> list[str]:
    """What differs and may: the methods' own settings, which are what one compares, and where the runs were made."""
    return [*_method_notes(base, new, methods), *_environment_notes(base, new)]


def _facts(manifest: Mapping[str, JSON], entry: Mapping[str, JSON]) -> dict[tuple[MismatchKind, str], Any]:
    """(kind, what) -> value, everything two cells must share."""
    suite, task, model = entry["suite"], entry["task"], entry["model"]
    settings = manifest["suites"][suite]
    own = manifest["methods"][entry["method"]].get("artifacts", {})
    artifacts = {name: value for name, value in entry.get("artifacts", {}).items() if name not in own}
    found: dict[tuple[MismatchKind, str], Any] = {
        ("samples", f"suite {suite}: name"): settings["name"],
        ("samples", f"suite {suite}: version"): settings["version"],
        ("samples", f"{suite}/{task}: metric"): manifest["metrics"][suite][task],
        ("samples", "seed"): entry["seed"],
        ("dtype", "dtype"): entry["dtype"],
        ("attention", "attention"): entry["attention"],
    }
    found |= {("samples", f"suite {suite}: {name}"): value for name, value in settings["params"].items()}
    for name, value in artifacts.items():
        if name in _MODEL_FILES:
            found["model", f"model {model}: {name}"] = value
        elif name == _TOKENIZER:
            found["samples", f"model {model}: tokenizer and chat template"] = value
        else:
            found["samples", f"{suite}/{task}: {name}"] = value
    rope = manifest["models"][model]
    found |= {("model", f"model {model}: {name}"): value for name, value in rope.items() if name != "inv_freq"}
    found["backend", f"model {model}: backend"] = backend(manifest, model)
    return found


def backend(manifest: Mapping[str, JSON], model: str) -> str:
    """What ran a model."""
    found = manifest["models"][model].get("params", {}).get("backend")
    return str(found["name"]) if isinstance(found, Mapping) and "name" in found else "transformers"


def _backends(cell: CellResult) -> str:
    """The attention backends that answered, where the records say so: `auto` may choose another one elsewhere."""
    return ", ".join(sorted({record.attention for record in cell.answered.values()} - {""}))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    is_hash = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:_SHOWN] if is_hash else text


def _method_notes(base: Mapping[str, JSON], new: Mapping[str, JSON], methods: Sequence[str]) -> Iterator[str]:
    for label in methods:
        ours, theirs = base["methods"][label], new["methods"][label]
        for name in ("name", "version"):
            if ours[name] != theirs[name]:
                yield f"method {label}: {name} {ours[name]} in BASE, {theirs[name]} in NEW"
        for part in ("params", "artifacts", "environment"):
            before, after = dict(flat(ours.get(part, {}))), dict(flat(theirs.get(part, {})))
            for name in sorted(before.keys() | after.keys()):
                if before.get(name) != after.get(name):
                    sides = (_shown(before.get(name)), _shown(after.get(name)))
                    yield f"method {label}: {name} {sides[0]} in BASE, {sides[1]} in NEW"


def _environment_notes(base: Mapping[str, JSON], new: Mapping[str, JSON]) -> Iterator[str]:
    before, after = dict(flat(base.get("environment", {}))), dict(flat(new.get("environment", {})))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"environment: {name} {before.get(name, 'none')} in BASE, {after.get(name, 'none')} in NEW"
