"""Checkpoints of a training: folders that are there whole or not at all; tensors in safetensors, the rest in JSON.

A checkpoint `step-000120` holds `weights-N.safetensors` (float32, by the model's own names), `moments-N.safetensors`,
`generators.safetensors` and `state.json`.
"""

import errno
import json
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import RequestError
from harness.types import JSON
from methods.longrope.training.settings import StepReport
from methods.longrope.training.weights import whole

STATE = "state.json"
_FORMAT = 1
_FILE_BYTES = 4 << 30  # of a safetensors file, about: so much is gathered at a time
_SCRATCH = ".writing-"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where a training stands, tensors aside.

    identity: the settings and inputs that the numbers depend on; a training goes on only under the same ones.
    data: where the stream stands. history: every step so far. The schedule is a function of the step.
    """

    step: int
    identity: Mapping[str, JSON]
    data: Mapping[str, JSON]
    n_tokens_by_bin: Mapping[str, int]
    n_tokens_by_regime: Mapping[str, int]
    history: tuple[StepReport, ...]
    seconds: float


def save(
    folder: Path,
    state: TrainingState,
    *,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    keep: int,
    is_main: bool = True,
) -> Path:
    """Writes a checkpoint beside its place, moves it there, and removes all but the last `keep`.

    Every process calls this; the main one writes. Raises RequestError where the disk is full: the last one stays.
    """
    place = folder / f"step-{state.step:06d}"
    scratch = folder / f"{_SCRATCH}{place.name}"
    if is_main:
        clean(folder)
    try:
        if is_main:
            scratch.mkdir(parents=True)
        _write_tensors(scratch, "weights", weights, is_main)
        _write_tensors(scratch, "moments", moments, is_main)
        if is_main:
            facts, generators = _generators()
            _write_file(generators, scratch / "generators.safetensors")
            text = json.dumps({"format": _FORMAT, **asdict(state), "generators": facts}) + "\n"
            (scratch / STATE).write_text(text, encoding="utf-8")
            _sync(scratch / STATE)
            _sync(scratch)
            if place.exists():
                shutil.rmtree(place)
            scratch.rename(place)
            _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise _refused(folder, place, error) from error
    if is_main:
        for old in all_in(folder)[:-keep]:
            shutil.rmtree(old)
    return place


def all_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the last one at the end."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())


def clean(folder: Path) -> None:
    """Removes what was left of a checkpoint whose writing was killed."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(scratch)


def read_state(place: Path) -> TrainingState:
    """A checkpoint's state. Raises RequestError for a damaged one."""
    found = _state(place)
    history = tuple(StepReport(**row) for row in found["history"])
    names = (name for name in TrainingState.__dataclass_fields__ if name != "history")
    return TrainingState(history=history, **{name: found[name] for name in names})


def check_identity(place: Path, state: TrainingState, identity: Mapping[str, JSON]) -> None:
    """Raises RequestError for a checkpoint of another configuration, naming what differs."""
    for name in sorted({*state.identity, *identity}):
        there, here = state.identity.get(name), identity.get(name)
        if there != json.loads(json.dumps(here)):
            raise RequestError(
                f"checkpoint '{place}' was made with {name} = {_short(there)}, here it is {_short(here)}: "
                "go on with the same configuration, or give another output folder"
            )


def weight_files(place: Path) -> tuple[Path, ...]:
    """The safetensors files with the weights of a checkpoint: float32, by the model's own names, tied ones once."""
    return tuple(sorted(place.glob("weights-*.safetensors")))


def tensors_in(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of some safetensors files, read one by one."""
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (it is no mapping)
                    yield name, file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise RequestError(f"'{path}' cannot be read ({error}): delete its folder, an older one is used") from error


def moment_files(place: Path) -> tuple[Path, ...]:
    """The safetensors files with AdamW's moments."""
    return tuple(sorted(place.glob("moments-*.safetensors")))


def restore_generators(place: Path) -> None:
    """Puts the generators of Python, numpy and PyTorch where they were."""
    facts = _state(place)["generators"]
    tensors = dict(tensors_in([place / "generators.safetensors"]))
    version, state, gauss = facts["python"]
    random.setstate((version, tuple(state), gauss))
    name, *rest = facts["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), *rest))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def _generators() -> tuple[dict[str, JSON], dict[str, Tensor]]:
    name, keys, *rest = np.random.get_state(legacy=True)
    tensors = {"numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return {"python": random.getstate(), "numpy": [name, *rest]}, tensors


def _write_tensors(folder: Path, stem: str, tensors: Mapping[str, Tensor], is_main: bool) -> None:
    number, size, held = 1, 0, {}
    for name, tensor in tensors.items():
        full = whole(tensor)  # every process takes part
        if not is_main:
            continue
        held[name] = full.cpu().contiguous()
        size += full.nbytes
        if size >= _FILE_BYTES:
            _write_file(held, folder / f"{stem}-{number}.safetensors")
            number, size, held = number + 1, 0, {}
    if held:
        _write_file(held, folder / f"{stem}-{number}.safetensors")


def _write_file(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path)
    path.chmod(0o644)  # it comes readable by its owner only
    _sync(path)


def _sync(path: Path) -> None:
    """What the system still holds of a file or a folder's names is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _state(place: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((place / STATE).read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise RequestError(f"checkpoint '{place}' has format {found['format']}: it should be {_FORMAT}")
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"checkpoint '{place}' cannot be read ({error}): delete it, an older one is used") from error
    return found


def _refused(folder: Path, place: Path, error: Exception) -> RequestError:
    good = all_in(folder)
    last = f"the last good checkpoint is '{good[-1]}'" if good else "there is no checkpoint before it"
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
    what = "the disk is full" if is_full else f"it cannot be written ({error})"
    return RequestError(f"checkpoint '{place}': {what}: free some space and start again; {last}")


def _short(value: JSON) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
