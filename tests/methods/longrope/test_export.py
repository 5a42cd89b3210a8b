"""A method exported to another engine: transformers is the oracle, and what cannot be expressed is said."""

import json
from pathlib import Path

import numpy as np
import pytest

import run_bench
from harness.errors import RequestError
from methods.longrope.export import export
from methods.longrope.factors_file import read_factors
from tests.methods.ropes import LLAMA3, TINY, make, make_rope

TINY_LLAMA = Path(run_bench.__file__).parent / "harness" / "assets" / "tiny-llama"
BEYOND, INSIDE = 700, 300
FACTORS = np.exp(np.linspace(0, np.log(10), 32)).tolist()


@pytest.fixture
def factors_file(tmp_path):
    def write(**changes) -> str:
        table = {"rescale_factors": FACTORS, "attention_factor": 1.2, "target_length": 4096, **changes}
        path = tmp_path / "factors.json"
        path.write_text(json.dumps(table))
        return str(path)

    return write


@pytest.fixture(scope="module")
def token_ids_BL():
    import torch

    return torch.randint(20, 2000, (1, BEYOND), generator=torch.Generator().manual_seed(0))


def logits_of_transformers(values, token_ids_BL):
    """The embedded model under the exported configuration, as transformers itself runs it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**json.loads((TINY_LLAMA / "config.json").read_text()), **values})
    model = LlamaForCausalLM.from_pretrained(TINY_LLAMA, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(token_ids_BL, use_cache=False).logits


def our_logits(tiny_llama, method, token_ids_BL):
    import torch

    with method.applied(tiny_llama, seq_len=token_ids_BL.shape[1]), torch.no_grad():
        return tiny_llama.hf(token_ids_BL, use_cache=False).logits


@pytest.mark.parametrize("seq_len", [INSIDE, BEYOND])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("longrope2", {"attention_inside_window": "extended"}),
        ("longrope", {}),
        ("yarn", {}),
    ],
)
def test_transformers_gives_the_same_logits(name, settings, seq_len, factors_file, tiny_llama, token_ids_BL):
    import torch

    if name != "yarn":
        settings = settings | {"factors": factors_file(short_factor=np.linspace(1, 1.5, 32).tolist())}
    method = make(name, **settings)
    made = export(method, TINY, engine="transformers", target_length=4096, accept_limits=True)
    if name == "yarn":
        method = make(name, target_length=4096)
    theirs = logits_of_transformers(made.values, token_ids_BL[:, :seq_len])
    ours = our_logits(tiny_llama, method, token_ids_BL[:, :seq_len])
    torch.testing.assert_close(theirs, ours, atol=2e-3, rtol=0)
    plain = our_logits(tiny_llama, make("vanilla"), token_ids_BL[:, :seq_len])
    assert (ours - plain).abs().max() > 0.1  # or the comparison would say nothing


def test_beyond_the_window_the_original_attention_inside_changes_nothing(factors_file, tiny_llama, token_ids_BL):
    import torch

    method = make("longrope2", factors=factors_file())
    made = export(method, TINY, engine="transformers", target_length=4096, accept_limits=True)
    ours = our_logits(tiny_llama, method, token_ids_BL)
    torch.testing.assert_close(logits_of_transformers(made.values, token_ids_BL), ours, atol=2e-3, rtol=0)
    assert any("attention factor 1 inside the window and 1.2 beyond" in limit for limit in made.limits)


def test_what_is_exported_reads_back(factors_file, tmp_path):
    method = make("longrope2", factors=factors_file(attention_factor=1.19))
    made = export(method, TINY, engine="transformers", target_length=4096, accept_limits=True)
    (tmp_path / "config.json").write_text(json.dumps({"head_dim": 64, **made.values}))
    contents = read_factors(str(tmp_path / "config.json"))
    contents.check(TINY)
    assert contents.rescale_factors == pytest.approx(FACTORS, rel=1e-11)
    assert contents.short_factor == (1.0,) * 32
    assert (contents.attention_factor, contents.target_length, contents.ratio) == (1.19, 4096, 8)


def test_the_published_list_is_exported_to_the_digit():
    made = export(make("longrope2"), LLAMA3, engine="transformers", target_length=131072, accept_limits=True)
    assert made.values["rope_parameters"]["long_factor"] == list(read_factors("llama3-8b-128k").rescale_factors)


def test_a_models_own_scaling_is_part_of_the_exported_factors():
    """A model shipped with Llama 3.1's scaling: the exported lists divide plain RoPE, so both hold it."""
    shipped = make("llama3", factor=8.0).rope_scaling(LLAMA3, seq_len=65536)
    rope = make_rope(128, 5e5, 65536, attention_factor=1.1)
    rope.inv_freq_P[:] = shipped.inv_freq_P
    made = export(make("position_interpolation"), rope, engine="vllm", target_length=131072)
    parameters = made.values["hf_overrides"]["rope_parameters"]
    own_P = np.array(shipped.rescale_factors_P(LLAMA3))
    np.testing.assert_allclose(parameters["long_factor"], 2 * own_P, rtol=1e-11)
    assert parameters["long_mscale"] == parameters["short_mscale"] == 1.1


def test_vllm_has_a_factor_for_each_regime_and_one_regime_an_engine(factors_file):
    made = export(
        make("longrope2", factors=factors_file()), TINY, engine="vllm", target_length=4096, accept_limits=True
    )
    overrides = made.values["hf_overrides"]
    parameters = overrides["rope_parameters"]
    assert (parameters["short_mscale"], parameters["long_mscale"]) == (1.0, 1.2)
    assert made.values["max_model_len"] == overrides["max_position_embeddings"] == 4096
    assert not any("attention factor" in limit for limit in made.limits)
    (limit,) = made.limits
    assert "max_model_len above 512" in limit
    # Its tables: 1 / (factor * rope_theta^(2i / d)).
    plain_P = 1e4 ** (np.arange(0, 64, 2) / 64)
    expected = make("longrope2", factors=factors_file()).rope_scaling(TINY, seq_len=4096).inv_freq_P
    np.testing.assert_allclose(1 / (np.array(parameters["long_factor"]) * plain_P), expected, rtol=1e-11)


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_refuses_in_one_line_what_the_engine_cannot_express(engine, factors_file):
    method = make("longrope2", factors=factors_file(start_tokens=4))
    with pytest.raises(RequestError, match="the first 4 positions keep the original frequencies") as refusal:
        export(method, TINY, engine=engine, target_length=4096)
    assert "\n" not in str(refusal.value)
    assert "--accept-limits" in str(refusal.value)
    dynamic = export(make("dynamic_ntk"), TINY, engine=engine, target_length=4096, accept_limits=True)
    assert any("follow each request's length" in limit for limit in dynamic.limits)


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_what_is_the_same_at_every_length_has_no_limits(engine):
    assert export(make("yarn"), TINY, engine=engine, target_length=4096).limits == ()


def test_refuses_what_no_flag_can_export():
    cope = make("cope")
    with pytest.raises(RequestError, match="switches frequencies off"):
        export(cope, TINY, engine="transformers", target_length=4096, accept_limits=True)
    with pytest.raises(RequestError, match="target length 512: it should be above the model's window of 512 tokens"):
        export(make("yarn"), TINY, engine="vllm", target_length=512)
    nested = {"rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": {}}}
    with pytest.raises(RequestError, match="only a model with one RoPE for all layers"):
        export(make("yarn"), TINY, engine="vllm", target_length=4096, config=nested)


def test_the_rotated_part_of_a_head_is_kept():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = make_rope(32, 1e4, 512)
    config = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    made = export(make("yarn"), rope, engine="transformers", target_length=2048, config=config)
    full = LlamaConfig(hidden_size=128, num_attention_heads=2, head_dim=64, **made.values)
    inv_freq, attention = ROPE_INIT_FUNCTIONS["longrope"](full, seq_len=2048)
    expected = make("yarn", target_length=2048).rope_scaling(rope, seq_len=2048)
    np.testing.assert_allclose(inv_freq.numpy(), expected.inv_freq_P, rtol=2e-6)
    assert attention == expected.attention_factor


def test_the_command_prints_json_and_what_is_lost(capsys):
    argv = ["factors", "longrope2", "--model", "llama3-8b", "--seq-len", "131072", "--set", "factors=llama3-8b-128k"]
    assert run_bench.main([*argv, "--export", "transformers"]) == 2
    refused = capsys.readouterr()
    assert refused.out == ""
    assert len(refused.err.splitlines()) == 1
    assert run_bench.main([*argv, "--export", "transformers", "--accept-limits"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rope_parameters"]["rope_type"] == "longrope"
    assert "1.14354 is used for both" in printed.err


def test_the_command_reads_a_checkpoints_own_configuration(tmp_path, capsys):
    config = json.loads((TINY_LLAMA / "config.json").read_text())
    config.pop("rope_theta", None)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    argv = ["factors", "yarn", "--model", str(tmp_path), "--seq-len", "4096", "--export", "transformers"]
    assert run_bench.main(argv) == 0
    parameters = json.loads(capsys.readouterr().out)["rope_parameters"]
    assert parameters["partial_rotary_factor"] == 0.5
    assert len(parameters["long_factor"]) == 16
