"""How much memory there is, what a request needs, and what to give up when it does not fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.errors import RequestError

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

# Sequences answered at once: more of them only help until the processor is busy.
BATCH = {"cpu": 16, "cuda": 32}
# Tokens that one pass reads: on a CPU what its caches hold; on a GPU only the first pass has the fastest kernels.
CHUNK = {"cpu": 2048, "cuda": 131072}
# Where a sliding window needs a mask, of chunk x (window + chunk).
WINDOWED_CHUNK = 4096
# Tokens that the sequences of a batch may have together: more of them fill memory and gain nothing.
_BATCH_TOKENS = {"cpu": 1 << 17, "cuda": 1 << 18}
_SHORTEST_CHUNK = 512
_USABLE = 0.9  # of what is free: the rest is fragmented, or wanted by others


@dataclass
class Limits:
    """What a model's requests may take at once. Only ever made smaller, by running out of memory.

    batch: sequences. chunk: tokens of a pass. kv_offload: keys and values lie in host memory.
    graphs: single tokens are written by replaying a CUDA graph. drafts: on a CPU, tokens that may follow are guessed
    and read together with the last one; the answers are the same.
    """

    batch: int
    chunk: int
    may_offload: bool = False
    kv_offload: bool = False
    graphs: bool = True
    drafts: bool = True

    @classmethod
    def of(cls, devices: Sequence[torch.device], *, may_offload: bool = False) -> "Limits":
        """Where a model on these devices starts. A graph is captured, and memory offloaded, of one alone."""
        kind, alone = devices[0].type, len(devices) == 1
        return cls(
            batch=BATCH.get(kind, BATCH["cpu"]),
            chunk=CHUNK.get(kind, CHUNK["cpu"]),
            may_offload=may_offload and kind == "cuda" and alone,
            graphs=alone,
        )

    def relieve(self) -> bool:
        """Give up the next thing for a single sequence: half the chunk, then the device's memory. False at the end."""
        if self.chunk > _SHORTEST_CHUNK:
            self.chunk = max(_SHORTEST_CHUNK, self.chunk // 2)
        elif self.may_offload and not self.kv_offload:
            self.kv_offload, self.batch = True, 1
        else:
            return False
        return True


def free_bytes(*devices: torch.device) -> int:
    """What can be allocated now, an equal part on each device."""
    if devices[0].type == "cuda":
        return len(devices) * min(map(_gpu_bytes, devices))
    return min(_system_bytes(), _container_bytes())


def rows_that_fit(model: "LoadedModel", n_tokens: int) -> int:
    """How many sequences of this length fit at once, at most the batch; 0 when none does.

    A model that runs in an engine of its own says so itself.
    """
    if hasattr(model, "rows_that_fit"):
        return int(model.rows_that_fit(n_tokens))
    held = 0 if model.cache is None else model.cache.n_rows * model.cache.capacity * model.kv_bytes_per_token
    usable = _USABLE * (free_bytes(*model.devices) + held) - _pass_bytes(model, n_tokens)
    worth = max(1, _BATCH_TOKENS.get(model.device.type, 1 << 17) // n_tokens)
    return max(0, min(model.limits.batch, worth, int(usable / (n_tokens * model.kv_bytes_per_token))))


def check_fits(model: "LoadedModel", n_tokens: int) -> None:
    """Raises MemoryError where the processor's memory would not hold one request of this length.

    A GPU says so itself; a host that runs out of memory ends processes.
    """
    if model.device.type == "cpu" and rows_that_fit(model, n_tokens) == 0:
        need = n_tokens * model.kv_bytes_per_token + _pass_bytes(model, n_tokens)
        raise MemoryError(
            f"{n_tokens} tokens need about {_gb(need)} of memory, {_gb(free_bytes(model.device))} are free"
        )


def check_weights_fit(label: str, n_bytes: int, *devices: torch.device) -> None:
    """Raises RequestError for weights that are larger than the devices' free memory."""
    free = free_bytes(*devices)
    if n_bytes > free:
        where = devices[0].type if len(devices) == 1 else f"{len(devices)} GPUs together"
        more = ", a larger machine or more GPUs ([run] gpus)" if devices[0].type == "cuda" else " or a larger machine"
        raise RequestError(
            f"model '{label}': its weights fill {_gb(n_bytes)}, {where} {'has' if len(devices) == 1 else 'have'} "
            f"{_gb(free)} free: a smaller dtype, a smaller model{more} would do"
        )


def _pass_bytes(model: "LoadedModel", n_tokens: int) -> int:
    """The activations of one pass of a chunk, roughly: of a layer, and the residual stream."""
    config = model.hf.config.get_text_config(decoder=True)
    hidden = int(config.hidden_size)
    intermediate = getattr(config, "intermediate_size", None)
    width = 8 * hidden + 3 * (intermediate if isinstance(intermediate, int) else 4 * hidden)
    return min(n_tokens, model.limits.chunk) * width * model.hf.dtype.itemsize


def _gpu_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _system_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 1 << 62  # nobody says


def _container_bytes() -> int:
    """What a container's limit leaves. Source: Linux, cgroup v2."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return 1 << 62 if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return 1 << 62


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
