"""RoPEs for the tests, and a method of every name in the catalogue that fits LLaMA3-8B."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from harness.catalogue import build, resolve
from methods import CATALOGUE
from methods.base import AbstractRopeMethod, RopeSpec
from methods.rope import default_inv_freq


def make_rope(rotary_dim: int, rope_theta: float, window: int, attention_factor: float = 1.0) -> RopeSpec:
    return RopeSpec(
        inv_freq_P=default_inv_freq(rope_theta, rotary_dim),
        rope_theta=rope_theta,
        rotary_dim=rotary_dim,
        original_max_position_embeddings=window,
        attention_factor=attention_factor,
    )


LLAMA3 = make_rope(128, 5e5, 8192)
TINY = make_rope(64, 1e4, 512)

# Settings that a method cannot do without.
REQUIRED = {
    "abf": {"rope_theta": 8e6},
    "resonance": {"on": "yarn"},
    "longrope": {"factors": "llama3-8b-128k"},
    "longrope2": {"factors": "llama3-8b-128k"},
}


def required(name: str) -> dict:
    return {"path": checkpoint()} if name == "checkpoint" else REQUIRED.get(name, {})


def make(name: str, **settings) -> AbstractRopeMethod:
    cls = resolve("method", CATALOGUE.get(name, name))  # by its place: a search of installed packages takes long
    return build(cls, required(name) | settings, where=f"method '{name}'")


@cache
def checkpoint() -> str:
    """An exported folder for LLaMA3-8B; its weights are never read."""
    from safetensors.numpy import save_file

    from methods.longrope.training.export import rope_facts, training_facts, write_facts
    from methods.longrope.training.trained_rope import TrainedRope

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    method, target = make("longrope2"), 131072
    trained = TrainedRope.of(method, LLAMA3, target_length=target, short_rope="original")
    facts = rope_facts(folder, trained, LLAMA3, "longrope2", method, target)
    rest = {"base": {"label": "llama3-8b"}, "dtype": "bfloat16", "measured": [], "limits": []}
    write_facts(folder, {**facts, **rest, "training": training_facts({}, None)})
    save_file({"a": LLAMA3.inv_freq_P}, folder / "model.safetensors")
    return str(folder)


def made_with_target(name: str, target_length: int) -> AbstractRopeMethod:
    """As a preset makes it: the target goes to the methods that take one."""
    takes = make(name).uses_target
    return make(name, **({"target_length": target_length} if takes else {}))


NAMES = tuple(CATALOGUE)
