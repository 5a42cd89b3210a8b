"""What a GGUF file says of its RoPE, and what it must be asked for."""

from pathlib import Path

import numpy as np
import pytest

from harness.errors import RequestError
from harness.models.request import ModelRequest, check, identity
from harness.models.rope_facts import rope_spec

gguf = pytest.importorskip("gguf", reason="not installed: gguf (make smollm2)")
pytest.importorskip("accelerate", reason="not installed: accelerate (make smollm2)")

FACTS = {"freq_base": 50000.0, "dimension_count": 64, "context_length": 4096}


def write(path: Path, *, lacking: str = "", scaling: bool = False, factors: bool = False) -> str:
    """A GGUF of the Llama architecture with one small tensor: enough to read its RoPE."""
    writer = gguf.GGUFWriter(path, "llama")
    if lacking != "freq_base":
        writer.add_rope_freq_base(FACTS["freq_base"])
    if lacking != "dimension_count":
        writer.add_rope_dimension_count(FACTS["dimension_count"])
    if lacking != "context_length":
        writer.add_context_length(FACTS["context_length"])
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
    if factors:
        writer.add_tensor("rope_freqs.weight", np.ones(32, dtype=np.float32))
    writer.add_tensor("token_embd.weight", np.ones((16, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def refusal(name: str, rope: dict | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        check(ModelRequest(name=name, rope=rope))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_facts_in_the_file_are_its_rope(tmp_path):
    name = write(tmp_path / "a.gguf")
    for request in (ModelRequest(name=name), ModelRequest(name=str(tmp_path), gguf_file="a.gguf")):
        check(request)
        rope = rope_spec(request)
        assert (rope.rope_theta, rope.rotary_dim, rope.original_max_position_embeddings) == (5e4, 64, 4096)
        np.testing.assert_allclose(rope.inv_freq_P, 5e4 ** -(np.arange(0, 64, 2) / 64))
        assert len(set(identity(request).values())) == 1


@pytest.mark.parametrize(
    ("lacking", "line", "value"),
    [
        ("freq_base", "under [model.rope]: rope_theta = 10000.0", {"rope_theta": 1e4}),
        ("dimension_count", "under [model.rope]: rotary_dim = 128", {"rotary_dim": 64}),
        ("context_length", "under [model.rope]: original_max_position_embeddings = 4096",
         {"original_max_position_embeddings": 512}),
    ],
)  # fmt: skip
def test_a_missing_fact_is_asked_for(tmp_path, lacking, line, value):
    name = write(tmp_path / "a.gguf", lacking=lacking)
    assert line in refusal(name)
    check(ModelRequest(name=name, rope=value))


@pytest.mark.parametrize("kind", ["scaling", "factors"])
def test_a_scaling_that_transformers_would_not_read_is_refused_until_it_is_stated(tmp_path, kind):
    name = write(tmp_path / "a.gguf", **{kind: True})
    assert "which transformers does not read from a GGUF: state it under [model.rope]" in refusal(name)
    assert "scales its RoPE" in refusal(name, {"rope_theta": 1e4})
    rope = rope_spec(ModelRequest(name=name, rope={"rope_type": "linear", "factor": 2.0}))
    np.testing.assert_allclose(rope.inv_freq_P, 5e4 ** -(np.arange(0, 64, 2) / 64) / 2)


@pytest.mark.parametrize("length", [4, 30, 200, -20])
def test_a_cut_file_is_refused(tmp_path, length):
    path = Path(write(tmp_path / "a.gguf"))
    path.write_bytes(path.read_bytes()[:length])
    assert f"{path} is broken or cut" in refusal(str(path))
