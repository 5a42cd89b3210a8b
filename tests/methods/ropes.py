"""RoPEs for the tests, and a method of every name in the catalogue that fits LLaMA3-8B."""

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


def make(name: str, **settings) -> AbstractRopeMethod:
    cls = resolve("method", CATALOGUE.get(name, name))  # by its place: a search of installed packages takes long
    return build(cls, REQUIRED.get(name, {}) | settings, where=f"method '{name}'")


def made_with_target(name: str, target_length: int) -> AbstractRopeMethod:
    """As a preset makes it: the target goes to the methods that take one."""
    takes = make(name).uses_target
    return make(name, **({"target_length": target_length} if takes else {}))


NAMES = tuple(CATALOGUE)
