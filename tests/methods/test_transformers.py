"""Equal to transformers, on random configurations of every scaling it has.

transformers computes in float32, where rope_theta^(2i / d) alone is off by up to 1e-6; here its functions run in
float64, so that a difference is one of formula.
"""

import json

import numpy as np
import pytest

from tests.methods.ropes import make, make_rope

N_CONFIGURATIONS = 120


class _Torch64:
    """torch, with float64 under the name of float32."""

    def __getattr__(self, name):
        import torch

        return getattr(torch, "float64" if name in ("float", "float32") else name)


@pytest.fixture(scope="module")
def oracle():
    """(rope_type, parameters, model shape, seq_len) -> transformers' frequencies and attention factor."""
    from transformers import LlamaConfig, modeling_rope_utils

    def compute(rope_type, parameters, shape, seq_len=None):
        head_dim, partial, rope_theta, window, target = shape
        longrope = {"original_max_position_embeddings": window} if rope_type in ("yarn", "llama3", "longrope") else {}
        config = LlamaConfig(
            hidden_size=2 * head_dim,
            num_attention_heads=2,
            head_dim=head_dim,
            max_position_embeddings=target,
            rope_parameters={
                "rope_type": rope_type,
                "rope_theta": rope_theta,
                "partial_rotary_factor": partial,
                **longrope,
                **parameters,
            },
        )
        inv_freq, attention = modeling_rope_utils.ROPE_INIT_FUNCTIONS[rope_type](config, seq_len=seq_len)
        return inv_freq.numpy(), attention

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_rope_utils, "torch", _Torch64())
        yield compute


def shapes(seed):
    """Random (generator, head_dim, partial rotary factor, rope_theta, window, factor)."""
    rng = np.random.default_rng(seed)
    for _ in range(N_CONFIGURATIONS):
        head_dim = int(rng.choice([32, 64, 80, 96, 128, 192, 256]))
        partial = float(rng.choice([0.25, 0.5, 0.75, 1.0]))
        window = int(rng.choice([512, 2048, 4096, 8192, 32768, 131072]))
        yield rng, head_dim, partial, float(10 ** rng.uniform(3.5, 7)), window, float(rng.uniform(1.05, 64))


def rope_of(head_dim, partial, rope_theta, window):
    return make_rope(int(head_dim * partial), rope_theta, window)


def assert_equal(scaling, expected):
    inv_freq_P, attention = expected
    np.testing.assert_allclose(scaling.inv_freq_P, inv_freq_P, rtol=1e-6)
    assert scaling.attention_factor == pytest.approx(attention, rel=1e-6)


def test_position_interpolation_is_linear(oracle):
    for _, *shape, factor in shapes(1):
        scaling = make("position_interpolation", factor=factor).rope_scaling(rope_of(*shape), seq_len=1)
        assert_equal(scaling, oracle("linear", {"factor": factor}, (*shape, shape[-1])))


def test_dynamic_ntk_is_dynamic(oracle):
    for rng, *shape, factor in shapes(2):
        window = shape[-1]
        seq_len = int(window * rng.uniform(0.1, 20))
        scaling = make("dynamic_ntk", dynamic_factor=factor).rope_scaling(rope_of(*shape), seq_len=seq_len)
        assert_equal(scaling, oracle("dynamic", {"factor": factor}, (*shape, window), seq_len))


def test_llama3_is_llama3(oracle):
    for rng, *shape, factor in shapes(3):
        low = float(rng.uniform(0.5, 4))
        settings = {"factor": factor, "low_freq_factor": low, "high_freq_factor": low * float(rng.uniform(1.5, 8))}
        scaling = make("llama3", **settings).rope_scaling(rope_of(*shape), seq_len=1)
        assert_equal(scaling, oracle("llama3", settings, (*shape, shape[-1] * 64)))


def test_yarn_is_yarn(oracle):
    for rng, *shape, factor in shapes(4):
        slow = float(rng.uniform(0.5, 4))
        settings = {"factor": factor, "beta_slow": slow, "beta_fast": slow * float(rng.uniform(1.5, 40))}
        settings["truncate"] = bool(rng.integers(2))
        theirs = dict(settings)
        kind = rng.integers(3)
        if kind == 1:
            settings["attention"] = theirs["attention_factor"] = float(rng.uniform(0.5, 2))
        elif kind == 2:
            scales = {"mscale": float(rng.uniform(0.2, 2)), "mscale_all_dim": float(rng.uniform(0.2, 2))}
            settings, theirs = settings | scales, theirs | scales
        scaling = make("yarn", **settings).rope_scaling(rope_of(*shape), seq_len=1)
        assert_equal(scaling, oracle("yarn", theirs, (*shape, int(shape[-1] * factor))))


def test_longrope_is_longrope(oracle, tmp_path):
    for i, (rng, *shape, _) in enumerate(shapes(5)):
        rope = rope_of(*shape)
        window, n_pairs = rope.original_max_position_embeddings, rope.rotary_dim // 2
        target = window * int(rng.integers(2, 64))
        lists = {
            "long_factor": np.sort(rng.uniform(0.9, 64, n_pairs)).tolist(),
            "short_factor": np.sort(rng.uniform(0.9, 3, n_pairs)).tolist(),
        }
        file = tmp_path / f"{i}.json"
        file.write_text(json.dumps({**lists, "target_length": target}))
        method = make("longrope", factors=str(file))
        for seq_len in (1, window, window + 1, target):
            scaling = method.rope_scaling(rope, seq_len=seq_len)
            assert_equal(scaling, oracle("longrope", lists, (*shape, target), seq_len))


def test_every_scaling_of_transformers_is_covered():
    """A scaling that transformers adds should show here, not stay unnoticed."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    no_extension = {"proportional"}  # Gemma 4's partly rotated heads
    assert set(ROPE_INIT_FUNCTIONS) - no_extension == {"linear", "dynamic", "yarn", "llama3", "longrope"}
