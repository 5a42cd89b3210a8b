"""The backends: named, checked before anything runs, read back, and equal to plain attention."""

import math

import pytest
import torch

from harness.errors import RequestError
from harness.models import attention, kernels
from harness.models.attention import DENSE_LIMIT, attending
from harness.models.forward import cache_for, read
from harness.models.generation import generate
from harness.models.loading import load
from harness.models.request import ModelRequest
from tests.models.zoo import CONFIGS, saved

GPU = pytest.mark.gpu
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def states(n_queries: int, n_keys: int, heads: int = 4, key_heads: int = 2, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(n_queries + n_keys)
    shapes = (2, heads, n_queries, 16), (2, key_heads, n_keys, 16), (2, key_heads, n_keys, 16)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def plain(query, key, value, scaling=None):
    """Softmax of the masked products: queries are the last of the keys."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.float().repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = query.float() @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=query.device).tril(scores.shape[3] - scores.shape[2])
    return (scores.masked_fill(~seen, -math.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 1), (7, 7), (2, 9), (5, 300), (64, 65)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_the_later_part_of_a_prompt_attends_to_all_before_it(n_queries, n_keys, scaling):
    query, key, value = states(n_queries, n_keys)
    out, _ = kernels.ragged(query, key, value, scaling)
    torch.testing.assert_close(out, plain(query, key, value, scaling), atol=1e-5, rtol=1e-4)


def test_the_later_part_of_a_prompt_has_the_gradient_of_plain_attention():
    given = [tensor.requires_grad_() for tensor in states(5, 300)]
    weights = torch.randn(2, 5, 4, 16, generator=torch.Generator().manual_seed(0))
    grads = []
    for out in (kernels.ragged(*given, None)[0], plain(*given)):
        grads.append(torch.autograd.grad((out * weights).sum(), given))
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_extreme_logits_do_not_break_the_joining_of_the_two_parts():
    query, key, value = states(4, 20)
    for scaling in (1e-4, 300.0):
        out, _ = kernels.ragged(query, key, value, scaling)
        torch.testing.assert_close(out, plain(query, key, value, scaling), atol=1e-4, rtol=1e-3)


def test_documents_in_one_row_do_not_see_each_other():
    query, key, value = (tensor[:1] for tensor in states(12, 12))
    ends = torch.tensor([0, 5, 12], dtype=torch.int32)
    given = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 7, "max_length_k": 7}
    out, _ = kernels.packed(query, key, value, None, given)
    for a, b in ((0, 5), (5, 12)):
        expected = plain(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b])
        torch.testing.assert_close(out[:, a:b], expected, atol=1e-5, rtol=1e-4)


def test_values_of_another_size_than_keys():
    query, key, _ = states(3, 9)
    value = torch.randn(2, 2, 9, 8)
    torch.testing.assert_close(
        kernels.ragged(query, key, value, None)[0], plain(query, key, value), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("chunk", [1 << 20, 16])
def test_the_last_layer_attends_only_for_tokens_whose_state_is_read(chunk, monkeypatch):
    model = load(ModelRequest(name="tiny-llama"), device="cpu")
    model.limits.chunk = chunk
    ids_RL = torch.arange(2 * 40).reshape(2, 40) % 90 + 5
    prompts = [ids_RL[0].tolist(), ids_RL[1, :37].tolist()]
    projection, attended = model.hf.base_model.layers[-1].self_attn.o_proj, []
    project = projection.forward

    def counting(states):
        attended.append(int((states != 0).any(-1).any(0).sum()))
        return project(states)

    with attending(), torch.no_grad(), cache_for(model, 2, 40) as cache:
        monkeypatch.setattr(projection, "forward", counting)
        logits_RV = read(model, cache, slice(0, 2), prompts)
        monkeypatch.undo()
        expected_RLV = model.hf(input_ids=ids_RL).logits
    assert sum(attended) == 4  # the tokens at 36 to 39
    torch.testing.assert_close(logits_RV, expected_RLV[[0, 1], [39, 36]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["cudnn", "flash", "varlen"])
def test_a_backend_of_gpus_is_refused_elsewhere(name):
    with pytest.raises(RequestError, match=f"attention = '{name}' needs a GPU and bfloat16 or float16, here are cpu"):
        load(ModelRequest(name="tiny-llama", attention=name), device="cpu")


@pytest.mark.parametrize("version", [2, 3, 4])
def test_flash_attn_is_refused_where_it_is_not_installed(version, monkeypatch):
    monkeypatch.setattr("harness.models.request.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=rf"attention = 'flash_attention_{version}': the package .* not installed"):
        load(ModelRequest(name="tiny-llama", attention=f"flash_attention_{version}"), device="cpu")


def test_a_model_with_capped_logits_needs_eager_attention(tmp_path):
    folder = saved(tmp_path / "gemma2", CONFIGS["gemma2"]())
    with pytest.raises(RequestError, match=r"Gemma2ForCausalLM caps its attention logits.*should be 'eager'"):
        load(ModelRequest(name=str(folder), attention="auto"), device="cpu")


def test_what_ran_is_noted_and_nothing_is_left_behind(tiny_llama):
    assert generate(tiny_llama, [5] * 30, max_new_tokens=2).attention == "flash"
    with attending() as outer, attending() as inner:
        generate(tiny_llama, [5] * 30, max_new_tokens=2)
    assert not outer.used | inner.used


def test_a_dense_mask_beyond_the_limit_is_an_error_not_a_page_of_memory():
    given = {"mask_function": object(), "q_length": 2048, "kv_length": DENSE_LIMIT // 2048 + 1}
    with pytest.raises(ValueError, match="would need a dense mask of 2048 x 32769"):
        attention._mask("auto", **given)


# On a GPU


def cuda_model(name: str = "auto", dtype: str = "bfloat16"):
    return load(ModelRequest(name="tiny-llama", attention=name, dtype=dtype), device="cuda")


@GPU
@NO_GPU
@pytest.mark.parametrize(("n_queries", "n_keys"), [(7, 7), (5, 300), (64, 65)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gpu_kernels_for_later_parts(n_queries, n_keys, dtype):
    query, key, value = states(n_queries, n_keys, device="cuda", dtype=dtype)
    out, used = kernels.ragged(query, key, value, None)
    assert used == ("varlen" if dtype == torch.bfloat16 else "flex")
    torch.testing.assert_close(out.float(), plain(query, key, value), atol=2e-2, rtol=2e-2)


@GPU
@NO_GPU
def test_gpu_rows_of_different_lengths():
    query, key, value = states(1, 300, device="cuda", dtype=torch.bfloat16)
    if not kernels.can_count(query.device, query.dtype, 16):
        pytest.skip("this PyTorch's varlen_attn takes no seqused_k")
    lengths = torch.tensor([17, 300], dtype=torch.int32, device="cuda")
    lying = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (key, value)]
    out, _ = kernels.counted(query, *lying, None, lengths)
    for row, length in enumerate((17, 300)):
        expected = plain(query[row : row + 1], key[row : row + 1, :, :length], value[row : row + 1, :, :length])
        torch.testing.assert_close(out[row : row + 1].float(), expected, atol=2e-2, rtol=2e-2)


@GPU
@NO_GPU
@pytest.mark.parametrize("name", ["auto", "cudnn", "flash", "math", "varlen", "sdpa", "eager"])
def test_gpu_backends_run_what_they_are_asked_for(name):
    model = cuda_model(name)
    used = generate(model, [5, 6, 7] * 200, max_new_tokens=12).attention.split("+")
    expected = {"auto": ("cudnn", "flash", "efficient")}.get(name, (name,))
    assert set(used) & set(expected)


@GPU
@NO_GPU
def test_gpu_graphs_write_what_eager_steps_write():
    model = cuda_model(dtype="float32")
    prompt = torch.randint(1, 4096, (700,), generator=torch.Generator().manual_seed(0)).tolist()
    captured = generate(model, prompt, max_new_tokens=20).token_ids
    assert model.limits.graphs
    model.limits.graphs = False
    assert generate(model, prompt, max_new_tokens=20).token_ids == captured
