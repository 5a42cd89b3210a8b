"""What a machine can do, and what a model asks of it: matrix peak, floating point operations, peak memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PAGE = 4096


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of one large matrix product; the best of several."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        _synchronize(device)
        began = time.perf_counter()
        a @ b
        _synchronize(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best


def prefill_flops(hf: Any, n_tokens: int) -> float:
    """Of one prompt: every matrix but the head, and attention with its causal half counted once."""
    config = hf.config.get_text_config(decoder=True)
    head = hf.get_output_embeddings()
    matrices = sum(
        module.weight.numel() for module in hf.modules() if isinstance(module, torch.nn.Linear) and module is not head
    )
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = config.num_hidden_layers * config.num_attention_heads * head_size * n_tokens**2 * 2
    return 2.0 * matrices * n_tokens + attention


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """The most memory of the block, in bytes, in the list once it has ended: of a GPU what was allocated, else of the
    process, looked at every few milliseconds."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device))
        return
    ended = threading.Event()
    most = [_resident_bytes()]

    def look() -> None:
        while not ended.wait(0.005):
            most[0] = max(most[0], _resident_bytes())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        found.append(max(most[0], _resident_bytes()))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
