"""A trained checkpoint as a method on the model it was trained from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from harness.errors import RequestError
from harness.types import JSON, content_hash
from methods.base import RopeScaling, RopeSpec

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

FACTS = "longreach.json"  # what a folder says of itself; `methods.longrope.training.export` writes it
SCHEMA_VERSION = 1
_ROPE_FACTS = ("rope_theta", "rotary_dim", "original_max_position_embeddings")
_WANTED = {
    "rope": (*_ROPE_FACTS, "target_length", "inside_window", "inv_freq"),
    "method": ("name", "params"),
    "base": ("label",),
}
_SHOWN = 12  # digits of a hash


@dataclass(frozen=True, kw_only=True)
class TrainedCheckpoint:
    """The weights of an exported folder in place of the base model's, under the RoPE that they were trained under.

    The weights are the trained ones at every length. Inside the window the RoPE is the original one where short
    segments were trained under it; everywhere else it is that of the trained method at the target length, whatever the
    request's own length.
    path: a folder that `train` exported, for the model that it was trained from and no other.
    inside_window: `original` reads requests inside the window under the original RoPE also where the weights were
        trained under another there.
    switch: as of `longrope2`, for a checkpoint that has two RoPEs.
    Memory: the weights of the checkpoint that was applied last stay beside the base model's, on its device and in its
    dtype. So it is twice the base model's weights, however many checkpoints a run has.
    Source: arXiv:2502.20082 section 3.3.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "arXiv:2502.20082"
    original_inside_window: ClassVar[bool] = False  # as the folder says; of its RoPE, the weights are others
    uses_target: ClassVar[bool] = False

    path: str = field(metadata={"path": True})
    inside_window: Literal["trained", "original"] = "trained"
    switch: Literal["request", "live"] = "request"

    def __post_init__(self) -> None:
        # A bad folder is found when the method is built, and what it says of itself is the method's.
        object.__setattr__(self, "version", type(self).version + self.inner.version - 1)
        is_original = "original" in (self.inside_window, self.facts["rope"]["inside_window"])
        object.__setattr__(self, "original_inside_window", is_original)
        if self.switch == "live" and not self.original_inside_window:
            raise ValueError("switch = 'live': this checkpoint has one RoPE for all lengths; leave it out")

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What the folder says of itself, read once. Raises RequestError."""
        return read_facts(Path(self.path))

    @cached_property
    def inner(self) -> Any:
        """The method that the checkpoint was trained for. Raises RequestError where it cannot be built."""
        return build_method(self.facts["method"], Path(self.path))

    @property
    def target_length(self) -> int:
        """The length that it was trained for."""
        return int(self.facts["rope"]["target_length"])

    def extension_ratio(self, rope: RopeSpec, seq_len: int) -> float:
        """The ratio that it was trained for."""
        return rope.extension_ratio(self.target_length)

    def rope_scaling(self, rope: RopeSpec, *, seq_len: int) -> RopeScaling:
        """The RoPE for a request of `seq_len` tokens. Raises RequestError for a model of another RoPE."""
        self._check_rope(rope)
        if self.original_inside_window and seq_len <= rope.original_max_position_embeddings:
            return rope.rescaled(1.0)
        scaling: RopeScaling = self.inner.rope_scaling(rope, seq_len=self.target_length)
        trained_P = np.array(self.facts["rope"]["inv_freq"])
        if scaling.inv_freq_P.shape != trained_P.shape or not np.allclose(
            scaling.inv_freq_P, trained_P, rtol=1e-9, atol=0
        ):
            raise RequestError(
                f"checkpoint '{self.path}': method '{self.facts['method']['name']}' gives other frequencies now than "
                "it was trained under: train it again, or use the Longreach that trained it"
            )
        return scaling

    def artifacts(self) -> Mapping[str, str]:
        """Hashes of the trained weights, and of the method and RoPE they are for."""
        return dict(self._artifacts)

    @contextmanager
    def applied(self, model: "LoadedModel", *, seq_len: int) -> Iterator["LoadedModel"]:
        """The model with these weights and this RoPE, until the block ends. Raises RequestError for another model."""
        from harness.models.switching import applied_rope
        from harness.models.weights import held_weights, swapped_weights

        def check() -> None:
            self._check_base(model)

        key = f"{Path(self.path).resolve()} {self._artifacts['checkpoint_weights']}"
        weights = held_weights(model, Path(self.path), key=key, check=check)
        with applied_rope(self, model, seq_len=seq_len), swapped_weights(model, weights):
            yield model

    @cached_property
    def _artifacts(self) -> dict[str, str]:
        from harness.models.files import weight_files
        from harness.models.hashes import combined, file_sha256

        paths = weight_files(Path(self.path))
        if missing := [path.name for path in paths if not path.is_file()] or ([] if paths else ["model.safetensors"]):
            raise RequestError(f"checkpoint '{self.path}' has no {missing[0]}: copy the whole folder again")
        inner = self.inner.artifacts() if hasattr(self.inner, "artifacts") else {}
        return {
            **inner,
            "checkpoint_weights": combined({path.name: file_sha256(path) for path in paths}),
            "checkpoint_method": content_hash([self.facts["method"], self.facts["rope"]]),
        }

    def _check_rope(self, rope: RopeSpec) -> None:
        for name in _ROPE_FACTS:
            trained, found = self.facts["rope"][name], getattr(rope, name)
            if trained != found:
                raise RequestError(
                    f"checkpoint '{self.path}' was trained from a model with {name} = {trained:g}, this one has "
                    f"{found:g}: apply it to {self.facts['base']['label']}"
                )

    def _check_base(self, model: "LoadedModel") -> None:
        from harness.models.request import identity

        base, found = self.facts["base"], identity(model.request)
        for name in ("weights", "tokenizer"):
            if name in base and name in found and base[name] != found[name]:
                raise RequestError(
                    f"checkpoint '{self.path}' was trained from {base['label']} with {name} "
                    f"{base[name][:_SHOWN]}, model '{model.request.label}' has {found[name][:_SHOWN]}: apply it to the "
                    "model that it was trained from"
                )


def read_facts(folder: Path) -> dict[str, Any]:
    """What an exported folder says of itself. Raises RequestError."""
    from harness.models.files import read_json

    if not (folder / FACTS).is_file():
        raise RequestError(f"checkpoint '{folder}' has no {FACTS}: it should be a folder that `train` exported")
    facts = read_json(folder / FACTS)
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise RequestError(
            f"checkpoint '{folder}': {FACTS} has schema_version {facts.get('schema_version')!r}: it should be "
            f"{SCHEMA_VERSION}, what is read here"
        )
    for name, keys in _WANTED.items():
        table = facts.get(name)
        missing = [key for key in keys if not isinstance(table, dict) or key not in table]
        if missing:
            raise RequestError(f"checkpoint '{folder}': {FACTS} does not say {name}.{missing[0]}: export it again")
    return facts


def build_method(table: Mapping[str, JSON], folder: Path) -> Any:
    """The method that a folder names, its files taken from the folder. Raises RequestError."""
    from harness.catalogue import build, resolve

    cls = resolve("method", table["name"])
    return build(cls, in_folder(cls, table["params"], folder), where=f"checkpoint '{folder}': method '{table['name']}'")


def in_folder(cls: type, params: Mapping[str, JSON], folder: Path) -> dict[str, JSON]:
    """A method's settings with the names of its files turned into their paths; those of a method it is on as well."""
    from harness.catalogue import resolve

    found = dict(params)
    for one in fields(cls):
        value = found.get(one.name)
        if one.metadata.get("path") and isinstance(value, str):
            found[one.name] = str(folder / value)
    if "on_params" in found:
        found["on_params"] = in_folder(resolve("method", found["on"]), found["on_params"], folder)
    return found
