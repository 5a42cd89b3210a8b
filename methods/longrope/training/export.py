"""A trained checkpoint as a folder that transformers loads, and that says how it was made.

The folder holds safetensors weights, `config.json` with the RoPE as far as transformers can express it, the tokenizer,
`longreach.json` with everything else (`methods.longrope.trained` reads it), and a model card.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError

from harness.environment import package_version
from harness.errors import RequestError
from harness.models.files import groups, read_json
from harness.models.locate import locate
from harness.models.request import identity
from harness.types import JSON, Regime, content_hash
from methods.base import RopeSpec
from methods.longrope.factors_file import packaged_factors
from methods.longrope.trained import FACTS, SCHEMA_VERSION, read_facts
from methods.longrope.training.card import card
from methods.longrope.training.settings import TrainingOutcome
from methods.longrope.training.trained_rope import STALE, TrainedRope, written_rope

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loading import LoadedModel

Dtype = Literal["float32", "bfloat16", "float16"]
_SCRATCH, _OLD = ".writing-", ".old-"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A result of the exported weights, for the card. `base`: the same of the model that they were trained from."""

    what: str
    value: float
    base: float | None = None
    n_samples: int | None = None


def export_checkpoint(
    folder: Path,
    *,
    base: "LoadedModel",
    weights: Iterable[Path],
    method_name: str,
    method: Any,
    target_length: int,
    short_rope: Regime,
    settings: Mapping[str, JSON],
    outcome: TrainingOutcome | None = None,
    dtype: Dtype = "bfloat16",
    measured: Sequence[Measured] = (),
) -> Path:
    """Writes the folder beside its place and moves it there; one that was exported before is replaced. One process.

    base: the model that was trained from, as loaded from its files; only its configuration, buffers and tokenizer are
    read. weights: safetensors files with a tensor for each of its parameters, tied ones once, as a training's outcome
    names them.
    method: what long segments ran under; method_name: its catalogue name or `pkg.module:Class`.
    short_rope: what short segments ran under (`TrainingSettings.short_rope`). settings: a summary of the training's,
    for the card; of paths the last part is kept. dtype: of the weights.
    Raises RequestError for a folder that holds something else, weights of another model, a RoPE that no configuration
    can express, or a full disk.
    """
    _check_place(folder)
    scratch = folder.parent / f"{_SCRATCH}{folder.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        _write_weights(scratch, base, weights, dtype)
        rope = TrainedRope.of(method, base.rope, target_length=target_length, short_rope=short_rope)
        limits = _write_config(scratch, rope, method, base.rope, target_length, dtype)
        _write_tokenizer(scratch, base, target_length)
        facts = {
            **rope_facts(scratch, rope, base.rope, method_name, method, target_length),
            "base": _base(base),
            "dtype": dtype,
            "training": training_facts(settings, outcome),
            "measured": [asdict(one) for one in measured],
            "limits": list(limits),
        }
        write_facts(scratch, facts)
        _move(scratch, folder)
    except (OSError, SafetensorError) as error:
        raise RequestError(f"checkpoint '{folder}' cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def add_measured(folder: Path, measured: Sequence[Measured]) -> None:
    """Puts results into an exported folder's facts and card, in place of those there. Raises RequestError."""
    write_facts(folder, {**read_facts(folder), "measured": [asdict(one) for one in measured]})


def rope_facts(
    folder: Path, trained: TrainedRope, rope: RopeSpec, method_name: str, method: Any, target_length: int
) -> dict[str, JSON]:
    """The tables `method` and `rope` of a folder's facts; files that the method reads are copied into the folder."""
    return {
        "schema_version": SCHEMA_VERSION,
        "longreach": package_version("longreach"),
        "method": {"name": method_name, "params": _carried(method, folder)},
        "rope": {
            "rope_theta": rope.rope_theta,
            "rotary_dim": rope.rotary_dim,
            "original_max_position_embeddings": rope.original_max_position_embeddings,
            "target_length": target_length,
            "inside_window": "original" if trained.inside.is_original(rope) else "rescaled",
            "attention_factor": {
                "inside_window": trained.inside.attention_factor,
                "beyond_window": trained.beyond.attention_factor,
            },
            "start_tokens": trained.beyond.start_tokens,
            "inv_freq": trained.beyond.inv_freq_P.tolist(),
        },
    }


def training_facts(settings: Mapping[str, JSON], outcome: TrainingOutcome | None) -> dict[str, JSON]:
    """A training's settings, their hash, and what came of it."""
    kept = _without_folders(settings)
    found: dict[str, JSON] = {"settings": kept, "settings_sha256": content_hash(kept)}
    if outcome is not None:
        losses = ("step", "loss", "loss_short", "loss_long")
        ends = {"first_step": outcome.history[0], "last_step": outcome.history[-1]} if outcome.history else {}
        found |= {
            "steps": outcome.steps,
            "n_tokens": outcome.n_tokens,
            "n_tokens_by_bin": dict(outcome.n_tokens_by_bin),
            "n_tokens_by_regime": dict(outcome.n_tokens_by_regime),
            "seconds": outcome.seconds,
            "attention": outcome.attention,
            **{name: {key: getattr(row, key) for key in losses} for name, row in ends.items()},
        }
    return found


def write_facts(folder: Path, facts: Mapping[str, JSON]) -> None:
    """Writes `longreach.json` and the card that says the same in words."""
    _write_text(folder / FACTS, json.dumps(facts, indent=1, allow_nan=False) + "\n")
    _write_text(folder / "README.md", card(facts, folder.name.removeprefix(_SCRATCH)))


def _carried(method: Any, folder: Path) -> dict[str, JSON]:
    """The method's settings; the files that it reads are copied into the folder and named from there."""
    params = {one.name: getattr(method, one.name) for one in fields(method)}
    for one in fields(method):
        if one.metadata.get("path") and params[one.name] is not None:
            params[one.name] = _copied(str(params[one.name]), folder / f"{one.name}.json")
    if "on_params" in params:
        inner = _carried(method.inner, folder)
        params["on_params"] = {name: inner[name] for name in params["on_params"]}
    return json.loads(json.dumps(params))  # as a reader finds them: lists for tuples


def _copied(name: str, place: Path) -> str:
    if name in packaged_factors():
        place.write_bytes((resources("methods.longrope") / "factors" / f"{name}.json").read_bytes())
    else:
        shutil.copyfile(name, place)
    return place.name


def _write_weights(folder: Path, base: "LoadedModel", weights: Iterable[Path], dtype: Dtype) -> None:
    import torch
    from safetensors.torch import load_file

    from harness.models.loading import quiet

    wanted = {name: parameter.shape for name, parameter in base.hf.named_parameters()}
    tied = {name for name, _ in base.hf.named_parameters(remove_duplicate=False)}
    state: dict[str, Tensor] = {name: t for name, t in base.hf.state_dict().items() if name not in tied}
    for path in weights:
        for name, tensor in load_file(path).items():
            if wanted.pop(name, None) != tensor.shape:
                raise RequestError(f"'{path}': tensor {name} of shape {list(tensor.shape)} is not one of the model's")
            state[name] = tensor.to(getattr(torch, dtype))
    if wanted:
        raise RequestError(f"the trained weights lack {len(wanted)} of the model's tensors (first: {min(wanted)})")
    with quiet():
        base.hf.save_pretrained(folder, state_dict=state, max_shard_size="5GB")


def _write_config(
    folder: Path, trained: TrainedRope, method: Any, rope: RopeSpec, target_length: int, dtype: Dtype
) -> tuple[str, ...]:
    config = read_json(folder / "config.json")
    values, limits = written_rope(trained, method, rope, target_length, config)
    kept = {key: value for key, value in config.items() if key not in STALE}
    _write_text(folder / "config.json", json.dumps({**kept, **values, "dtype": dtype}, indent=2, sort_keys=True) + "\n")
    return limits


def _write_tokenizer(folder: Path, base: "LoadedModel", target_length: int) -> None:
    """The base model's own files where it has a folder, but for the length it is said to be good for."""
    source = locate(base.request)
    if source.folder is None:
        base.tokenizer.save_pretrained(folder)
    else:
        for path in groups(source.folder, code=False)["tokenizer"]:
            shutil.copyfile(path, folder / path.name)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        settings = {**read_json(path), "model_max_length": target_length}
        _write_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _base(base: "LoadedModel") -> dict[str, JSON]:
    source = locate(base.request)
    label = source.repo or str(base.request.label)
    return {"label": label, "is_hub_id": source.repo is not None, **identity(base.request)}


def _without_folders(value: JSON) -> JSON:
    """Settings as they may be published: of an absolute path its last part."""
    if isinstance(value, Mapping):
        return {str(key): _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    is_path = isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute())
    return Path(value).name if is_path else value


def _check_place(folder: Path) -> None:
    if folder.exists() and not (folder / FACTS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"'{folder}' holds something else: give a new folder for the exported checkpoint")


def _move(scratch: Path, folder: Path) -> None:
    old = folder.parent / f"{_OLD}{folder.name}"
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    scratch = path.with_name(f"{_SCRATCH}{path.name}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
