"""Memory is estimated before it is asked for, and given up step by step."""

import pytest

from harness.errors import RequestError
from harness.models import memory
from harness.models.generation import generate
from harness.models.loading import load
from harness.models.memory import Limits, rows_that_fit
from harness.models.request import ModelRequest
from harness.models.scoring import score_segments
from harness.types import Segment


def test_one_token_s_keys_and_values(tiny_llama):
    assert tiny_llama.kv_bytes_per_token == 4 * 2 * 4 * 64 * 4  # layers, keys and values, heads, head size, float32


def test_the_batch_is_what_fits(tiny_llama, monkeypatch):
    tiny_llama.cache = None
    assert rows_that_fit(tiny_llama, 1000) == tiny_llama.limits.batch
    a_row = 1000 * tiny_llama.kv_bytes_per_token
    activations = memory._pass_bytes(tiny_llama, 1000)
    for n_rows in (0, 1, 5):
        free = int((activations + (n_rows + 0.5) * a_row) / 0.9)
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert rows_that_fit(tiny_llama, 1000) == n_rows


def test_a_request_beyond_the_memory_is_refused_before_it_is_tried(tiny_llama, monkeypatch):
    tiny_llama.cache = None
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    with pytest.raises(MemoryError, match=r"504 tokens need about 0.0 GB of memory, 0.0 GB are free"):
        generate(tiny_llama, [5] * 500, max_new_tokens=4)
    with pytest.raises(MemoryError, match="501 tokens"):
        score_segments(tiny_llama, [Segment(token_ids=[5] * 501, n_context=3)])


def test_a_model_larger_than_the_memory_is_one_line(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**7)
    with pytest.raises(RequestError, match=r"model 'tiny-llama': its weights fill 0.0 GB, cpu has 0.0 GB free"):
        load(ModelRequest(name="tiny-llama"), device="cpu")


def test_a_gpu_gives_up_chunk_by_chunk_then_its_own_memory_then_nothing():
    limits = Limits(batch=4, chunk=3000, may_offload=True)
    seen = []
    while limits.relieve():
        seen.append((limits.chunk, limits.kv_offload))
    assert seen == [(1500, False), (750, False), (512, False), (512, True)]
    assert limits.batch == 1
    limits = Limits(batch=4, chunk=512)
    assert not limits.relieve()


def test_free_memory_is_a_number_of_this_machine():
    import torch

    assert 10**7 < memory.free_bytes(torch.device("cpu")) < 10**14
