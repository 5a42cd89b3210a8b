"""A model's RoPE as read from its configuration, against transformers' own reading of the same one."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from harness.errors import RequestError
from harness.models.request import ModelRequest
from harness.models.rope_facts import rope_spec, rope_spec_from_config, rope_spec_of

LLAMA3 = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 131072}
SCALED_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
DEEPSEEK = {
    "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.8,
    "original_max_position_embeddings": 4096,
}  # fmt: skip

# Configurations in the shape of published ones: rope_theta, rotary dimensions and window as their authors say.
PUBLISHED = {
    "llama 2, rope_theta left out": (
        {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096},
        (1e4, 128, 4096),
    ),
    "llama 3.1": (
        {**LLAMA3, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **SCALED_LLAMA3}},
        (5e5, 128, 131072),
    ),
    "llama 3.1 as transformers 5 writes it": (
        {**LLAMA3, "head_dim": 128, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **SCALED_LLAMA3}},
        (5e5, 128, 131072),
    ),
    "qwen 2.5 with yarn": (
        {
            "model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "rope_theta": 1e6,
            "max_position_embeddings": 131072,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        },
        (1e6, 128, 131072),
    ),
    "deepseek v3": (
        {
            "model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128, "qk_rope_head_dim": 64,
            "rope_theta": 10000, "max_position_embeddings": 163840, "rope_scaling": DEEPSEEK,
        },
        (1e4, 64, 163840),
    ),
    "gpt-oss": (
        {
            "model_type": "gpt_oss", "hidden_size": 2880, "num_attention_heads": 64, "head_dim": 64,
            "rope_theta": 150000, "max_position_embeddings": 131072,
            "rope_scaling": {
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        },
        (150000.0, 64, 131072),
    ),
    "phi-3-mini-4k": (
        {
            "model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 32, "rope_theta": 10000.0,
            "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rope_scaling": None,
        },
        (1e4, 96, 4096),
    ),
    "pythia": (
        {
            "model_type": "gpt_neox", "hidden_size": 512, "num_attention_heads": 8, "rotary_pct": 0.25,
            "rotary_emb_base": 10000, "max_position_embeddings": 2048,
        },
        (1e4, 16, 2048),
    ),
    "glm, rotation left out": (
        {
            "model_type": "glm", "hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128,
            "rope_theta": 10000.0, "max_position_embeddings": 8192,
        },
        (1e4, 64, 8192),
    ),
    "gemma 3 with vision": (
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text", "hidden_size": 2560,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        },
        (1e6, 256, 131072),
    ),
    "gemma 3 as transformers 5 writes it": (
        {
            "model_type": "gemma3_text", "hidden_size": 1152, "num_attention_heads": 4, "head_dim": 256,
            "max_position_embeddings": 32768, "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
            },
        },
        (1e6, 256, 32768),
    ),
}  # fmt: skip


def transformers_own(config: dict) -> tuple[np.ndarray, float]:
    """Frequencies and attention factor as transformers computes them; of several layer types the full attention's."""
    stated = {key: value for key, value in json.loads(json.dumps(config)).items() if key != "model_type"}
    full = AutoConfig.for_model(config["model_type"], **stated).get_text_config()
    layer_type = "full_attention" if "full_attention" in full.rope_parameters else None
    rope = full.rope_parameters[layer_type] if layer_type else full.rope_parameters
    if rope["rope_type"] == "default":
        dim = int((getattr(full, "head_dim", None) or full.hidden_size // full.num_attention_heads)
                  * rope.get("partial_rotary_factor", 1.0))  # fmt: skip
        return rope["rope_theta"] ** -(np.arange(0, dim, 2) / dim), 1.0
    inv_freq_P, attention_factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](full, "cpu", layer_type=layer_type)
    return inv_freq_P.double().numpy(), attention_factor


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_read_as_transformers_reads_them(name):
    config, (rope_theta, rotary_dim, window) = PUBLISHED[name]
    rope = rope_spec_from_config(config)
    inv_freq_P, attention_factor = transformers_own(config)
    assert (rope.rope_theta, rope.rotary_dim, rope.original_max_position_embeddings) == (rope_theta, rotary_dim, window)
    np.testing.assert_allclose(rope.inv_freq_P, inv_freq_P, rtol=1e-5)
    assert rope.attention_factor == pytest.approx(attention_factor)


@given(
    head_dim=st.integers(8, 128).map(lambda pairs: 2 * pairs),
    rope_theta=st.floats(1e3, 1e7),
    scaling=st.one_of(
        st.fixed_dictionaries({"rope_type": st.just("linear"), "factor": st.floats(1, 64)}),
        st.fixed_dictionaries(
            {
                "rope_type": st.just("llama3"), "factor": st.floats(1, 64), "low_freq_factor": st.floats(0.5, 2),
                "high_freq_factor": st.floats(3, 8), "original_max_position_embeddings": st.just(2048),
            }
        ),
        st.fixed_dictionaries(
            {
                "rope_type": st.just("yarn"), "factor": st.floats(1.1, 64),
                "original_max_position_embeddings": st.just(2048),
            },
            optional={"attention_factor": st.floats(0.5, 2), "truncate": st.booleans()},
        ),
    ),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shipped_scaling_is_computed_as_transformers_does(head_dim, rope_theta, scaling):
    config = {
        "model_type": "llama", "hidden_size": 256, "num_attention_heads": 4, "head_dim": head_dim,
        "max_position_embeddings": 65536, "rope_parameters": {**scaling, "rope_theta": rope_theta},
    }  # fmt: skip
    rope = rope_spec_from_config(config)
    inv_freq_P, attention_factor = transformers_own(config)
    np.testing.assert_allclose(rope.inv_freq_P, inv_freq_P, rtol=2e-4)
    assert rope.attention_factor == pytest.approx(attention_factor)
    assert rope.original_max_position_embeddings == 65536


PHI4_MINI = {
    "model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 24, "partial_rotary_factor": 0.75,
    "rope_theta": 10000.0, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
    "rope_scaling": {"type": "longrope", "long_factor": [2.0] * 48, "short_factor": [1.0] * 48},
}  # fmt: skip
DYNAMIC = {
    **LLAMA3,
    "rope_theta": 1e4,
    "max_position_embeddings": 2048,
    "rope_scaling": {"type": "dynamic", "factor": 4.0},
}


@pytest.mark.parametrize(("config", "window"), [(PHI4_MINI, 4096), (DYNAMIC, 2048)])
def test_a_rope_that_changes_with_the_length_is_refused_until_a_start_is_stated(config, window):
    line = f'write under \\[model.rope\\]: rope_type = "default", original_max_position_embeddings = {window}'
    with pytest.raises(RequestError, match=line):
        rope_spec_from_config(config)
    start = {"rope_type": "default", "original_max_position_embeddings": window}
    for override in (start, {"rope_type": "default"}):
        rope = rope_spec_from_config(config, override)
        assert rope.original_max_position_embeddings == window
        np.testing.assert_allclose(rope.inv_freq_P, 1e4 ** -(np.arange(0, rope.rotary_dim, 2) / rope.rotary_dim))
        assert rope.attention_factor == 1


def test_the_override_wins_over_the_configuration():
    config = PUBLISHED["llama 3.1"][0]
    plain = rope_spec_from_config(config, {"rope_type": "default"})
    assert plain.original_max_position_embeddings == 8192
    np.testing.assert_allclose(plain.inv_freq_P, 5e5 ** -(np.arange(0, 128, 2) / 128))
    assert rope_spec_from_config(config, {"rope_theta": 1e6}).rope_theta == 1e6
    window = rope_spec_from_config(PUBLISHED["phi-3-mini-4k"][0], {"original_max_position_embeddings": 2048})
    assert window.original_max_position_embeddings == 2048


def test_a_yarn_model_may_be_stated_whole_without_a_configuration():
    override = {
        "rope_type": "yarn", "rope_theta": 1e6, "rotary_dim": 128, "factor": 4,
        "original_max_position_embeddings": 32768,
    }  # fmt: skip
    rope = rope_spec_from_config({}, override)
    expected = rope_spec_from_config(PUBLISHED["qwen 2.5 with yarn"][0])
    np.testing.assert_array_equal(rope.inv_freq_P, expected.inv_freq_P)
    assert rope.original_max_position_embeddings == 131072


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"rope_thta": 1e4}, "no key 'rope_thta': did you mean 'rope_theta'?"),
        ({"rope_theta": "10000"}, "rope_theta = '10000': it should be a number"),
        ({"rope_theta": -1.0}, "rope_theta = -1.0: it should be positive"),
        ({"rope_theta": 1.0}, "rope_theta = 1: it should be above 1"),
        ({"rotary_dim": 63}, "rotary_dim = 63: it should be an even number"),
        ({"rotary_dim": 64.0}, "rotary_dim = 64.0: it should be a whole number"),
        ({"truncate": 1}, "truncate = 1: it should be true or false"),
        ({"rope_type": "yarm"}, "rope_type 'yarm' is not one that Longreach reads: did you mean 'yarn'?"),
        ({"rope_type": "proportional"}, "rope_type 'proportional' is not one that Longreach reads"),
        ({"rope_type": "yarn"}, "rope_type 'yarn' needs factor: add it under [model.rope]"),
        ({"rope_type": "linear", "factor": 0.5}, "factor = 0.5: it should be at least 1"),
        ({"factor": 4.0}, "[model.rope] factor belongs to rope_type linear or llama3 or yarn, not to 'default'"),
    ],
)
def test_a_bad_override_is_refused_in_one_line(override, message):
    with pytest.raises(RequestError) as caught:
        rope_spec_from_config(PUBLISHED["phi-3-mini-4k"][0], override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lacking", "line"),
    [
        ("rope_theta", "rope_theta: add what it was trained with under [model.rope]: rope_theta = 10000.0"),
        ("hidden_size", "rotary_dim: add what it was trained with under [model.rope]: rotary_dim = 128"),
        ("max_position_embeddings", "[model.rope]: original_max_position_embeddings = 4096"),
    ],
)
def test_a_model_of_an_unknown_type_is_asked_for_what_its_configuration_leaves_out(lacking, line):
    config = {**LLAMA3, "rope_theta": 1e4, "model_type": "somebody_s_own"}
    assert rope_spec_from_config(config).rotary_dim == 128
    del config[lacking]
    with pytest.raises(RequestError) as caught:
        rope_spec_from_config(config)
    assert line in str(caught.value)


def test_layer_types_without_full_attention_are_refused():
    nested = {"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}}
    with pytest.raises(RequestError, match="the layer types sliding_attention, none of them full_attention"):
        rope_spec_from_config({**LLAMA3, **nested})


def test_a_configuration_file_is_enough(tmp_path):
    config, (rope_theta, rotary_dim, window) = PUBLISHED["llama 3.1"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in (str(tmp_path / "config.json"), str(tmp_path)):
        rope = rope_spec_of(name)
        assert (rope.rope_theta, rope.rotary_dim, rope.original_max_position_embeddings) == (
            rope_theta,
            rotary_dim,
            window,
        )


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("tiny-llama", (1e4, 64, 512)), ("smollm2-135m", (1e5, 64, 8192)), ("smollm2-135m-hf", (1e5, 64, 8192)),
        ("llama3-8b", (5e5, 128, 8192)), ("llama2-7b", (1e4, 128, 4096)), ("phi3-mini", (1e4, 96, 2048)),
    ],
)  # fmt: skip
def test_the_catalogue_s_facts_need_no_network(name, facts):
    rope = rope_spec(ModelRequest(name=name))
    assert (rope.rope_theta, rope.rotary_dim, rope.original_max_position_embeddings) == facts
