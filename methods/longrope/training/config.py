"""A training's TOML file to a validated plan: every name and number is checked here, and no model is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.catalogue import build
from harness.config import find_preset, key_params, model_request, planned_method, read_toml
from harness.errors import RequestError, did_you_mean
from harness.models import request as models
from harness.models.request import ModelRequest, with_weights_at_hand
from harness.models.rope_facts import rope_spec
from harness.plan import PlannedMethod
from harness.types import JSON, content_hash
from methods import CATALOGUE
from methods.base import RopeSpec
from methods.longrope.training.bins import Shape
from methods.longrope.training.prepare import DataPlan, PlannedSource
from methods.longrope.training.settings import FREE, TrainingSettings
from methods.longrope.training.shards import INDEX, read_index

VERSION = 1  # raised when the same configuration gives other numbers


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What was trained on what, as text and numbers, and what names it.

    key: sha256 of everything that moves a number. model_identity: name -> sha256 of the model's files.
    method: what long segments are read under. artifacts: name -> sha256 of its files.
    data: sources, bins and the mix, as they were asked for. training: the settings.
    held_out_segments: so many of each bin are measured before and after, and never trained on.
    """

    title: str
    preset: str
    key: str
    model: str
    model_identity: Mapping[str, str]
    attention: str
    original_window: int
    target_length: int
    method: str
    method_params: Mapping[str, JSON]
    artifacts: Mapping[str, str]
    data: Mapping[str, JSON]
    training: Mapping[str, JSON]
    held_out_segments: int
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingPlan:
    """A validated training."""

    facts: TrainingFacts
    model: ModelRequest
    method: PlannedMethod
    data: DataPlan
    settings: TrainingSettings


@dataclass(frozen=True, kw_only=True)
class _Config:
    """The top level of the TOML file."""

    target_length: int
    title: str = ""
    seed: int = 0
    held_out_segments: int = 4
    model: Any = None
    method: Any = None
    data: Mapping[str, JSON] = field(default_factory=dict)
    training: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seed", "held_out_segments"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: it should be at least 0")


def load_training(name: str) -> TrainingPlan:
    """The plan of a configuration, by its name or its path. Raises RequestError for whatever is wrong in it.

    `like = "another"` takes over what the file does not say itself: of [data] and [training] each entry, of the others
    the whole table. Paths are taken from the folder of the file that is named here.
    """
    path = find_preset(name, "train")
    where = f"training '{path.stem}'"
    config: _Config = build(_Config, _read(path), where=where)
    request = _model(config, path.parent, where)
    settings: TrainingSettings = build(TrainingSettings, config.training, where="training")
    data = DataPlan.from_table(config.data, relative_to=path.parent)
    models.check(request)
    rope = rope_spec(request)
    window = rope.original_max_position_embeddings
    if config.target_length <= window:
        raise RequestError(
            f"{where}: target_length = {config.target_length}: it should be above the model's window of {window} tokens"
        )
    method = _method(config, rope, path.parent, where)
    shapes = _shapes(data, window, config.target_length)
    facts = TrainingFacts(
        title=config.title or path.stem,
        preset=path.stem,
        key="",
        model=str(request.label),
        model_identity=models.fingerprint(request),
        attention=request.attention,
        original_window=window,
        target_length=config.target_length,
        method=method.name,
        method_params=method.params,
        artifacts=method.artifacts,
        data={
            "sources": {source.label: _identity(source) for source in data.sources},
            "bins": {bin.name: asdict(bin) for bin in data.mix.bins},
            "shapes": {name: asdict(shape) for name, shape in shapes.items()},
            **{name: getattr(data.mix, name) for name in ("total_tokens", "group_size", "seed")},
        },
        training=asdict(settings),
        held_out_segments=config.held_out_segments,
        seed=config.seed,
    )
    return TrainingPlan(
        facts=replace(facts, key=_key(facts, method)), model=request, method=method, data=data, settings=settings
    )


def _read(path: Path) -> dict[str, JSON]:
    """A configuration laid over the one that it is `like`."""
    table = read_toml(path)
    like = table.pop("like", None)
    if like is None:
        return table
    if not isinstance(like, str):
        raise RequestError(f"{path}: like = {like!r}: it should be the name of a configuration, or a path")
    beside = path.parent / like
    base = read_toml(beside if beside.is_file() else find_preset(like, "train"))
    if "like" in base:
        raise RequestError(f"{path}: like = '{like}': it is like another one itself: name that one")
    for name in ("data", "training"):
        ours, theirs = table.get(name, {}), base.get(name, {})
        if isinstance(ours, dict) and isinstance(theirs, dict):
            table[name] = {**theirs, **ours}
    return {**base, **table}


def _model(config: _Config, folder: Path, where: str) -> ModelRequest:
    if not isinstance(config.model, dict) or not isinstance(config.model.get("name"), str):
        raise RequestError(f'{where} has no model: write name = "..." under [model]')
    if "dtype" in config.model:
        raise RequestError('[model] dtype: weights are trained in float32: write dtype = "..." under [training]')
    return with_weights_at_hand(model_request(config.model, folder))


def _method(config: _Config, rope: RopeSpec, folder: Path, where: str) -> PlannedMethod:
    table = config.method
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise RequestError(f'{where} has no method: write name = "..." under [method]; {did_you_mean("", CATALOGUE)}')
    method = planned_method(table, config.target_length, folder)
    if not hasattr(method.method, "rope_scaling"):
        raise RequestError(f"method '{method.name}' is no RoPE method: nothing can be trained for it")
    method.method.rope_scaling(rope, seq_len=config.target_length)  # factors of another model are refused here
    return method


def _shapes(data: DataPlan, window: int, target: int) -> dict[str, Shape]:
    mix = data.mix
    return {
        bin.name: Shape.of(
            bin, segment_length=mix.segment_length, document_mask=mix.document_mask, window=window, target=target
        )
        for bin in mix.bins
    }


def _identity(planned: PlannedSource) -> JSON:
    if planned.source is not None:
        settings = key_params(planned.source)
        return {**settings, "content": content_hash(planned.source.identity()), "max_tokens": planned.max_tokens}
    assert planned.folder is not None
    read_index(planned.folder)
    return {"content": content_hash((planned.folder / INDEX).read_bytes())}


def _key(facts: TrainingFacts, method: PlannedMethod) -> str:
    """sha256 of everything that moves a number of the training or of what is measured of it."""
    names = ("title", "preset", "key", "model")
    table = {name: value for name, value in asdict(facts).items() if name not in names}
    table["training"] = {name: value for name, value in facts.training.items() if name not in FREE}
    return content_hash([VERSION, method.method.version, table])
