"""Loads a requested model: safetensors or GGUF only, its rotary embedding pinned, its attention read back."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.environment import process_peak_bytes
from harness.errors import RequestError
from harness.models import attention, files, hub
from harness.models.caches import Cache, attends_to_all, bytes_per_token
from harness.models.generation import Request, generate_each
from harness.models.locate import locate
from harness.models.memory import Limits, check_weights_fit
from harness.models.request import ModelRequest, check
from harness.models.rope_facts import rope_spec
from harness.models.rotary import RotarySite, find_sites
from harness.models.scoring import score_segments
from harness.models.spreading import devices_from, place
from harness.models.switching import Switch
from harness.models.weights import HeldWeights
from harness.types import Example, Output, Regime
from methods.base import RopeScaling, RopeSpec

_NO_LIMIT = sys.maxsize
Settled = Callable[[str], bool]


@dataclass(kw_only=True, eq=False)
class LoadedModel:
    """A model ready to answer. `scaling` is what a method put on it, or None under the model's own RoPE.

    switch: the RoPE that generations begin under and when they leave it, where a method changes it on the way.
    devices: what its layers lie on; `device`, the first, has tokens and logits.
    """

    hf: Any
    tokenizer: Any
    rope: RopeSpec
    devices: tuple[torch.device, ...]
    request: ModelRequest
    sites: tuple[RotarySite, ...]
    eos_ids: frozenset[int]
    limits: Limits
    scaling: RopeScaling | None = None
    switch: Switch | None = None
    cache: Cache | None = None  # kept from the last requests for the next ones
    held: HeldWeights | None = None  # of the trained checkpoint that was applied last

    @property
    def device(self) -> torch.device:
        """Where tokens come in and logits come out."""
        return self.devices[0]

    @property
    def regime(self) -> Regime:
        """Which RoPE a request that runs now is answered under."""
        if self.scaling is None:
            return "original"
        # A tensor stands for frequencies under search.
        found = isinstance(self.scaling.inv_freq_P, np.ndarray) and self.scaling.is_original(self.rope)
        return "original" if found else "rescaled"

    @property
    def can_batch(self) -> bool:
        """Whether several requests can be answered at once, and a prefix be read once for all."""
        return self._attends_to_all and not self.limits.kv_offload

    @cached_property
    def _attends_to_all(self) -> bool:
        return attends_to_all(self.hf)

    @cached_property
    def kv_bytes_per_token(self) -> int:
        """What one token's keys and values fill."""
        return bytes_per_token(self)

    def answer(self, example: Example, settled: "Settled | None" = None) -> Output:
        """Generates, or scores the example's segments. Raises FloatingPointError on numbers that are not finite."""
        if not example.segments:
            ((_, output),) = self.answer_each([example], [settled])
            return output
        self._reset_peak()
        return score_segments(self, example.segments)

    def answer_each(
        self, examples: Sequence[Example], settled: "Sequence[Settled | None]", *, n_rows: int = 1
    ) -> Iterator[tuple[int, Output]]:
        """Generates, `n_rows` at once: each answer, with its example's place, as soon as it is there.

        settled: for each, whether a text has a score that nothing written behind it could change.
        """
        self._reset_peak()
        requests = [Request.of(example, check) for example, check in zip(examples, settled, strict=True)]
        return generate_each(self, requests, n_rows=n_rows)

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            for device in self.devices:
                torch.cuda.reset_peak_memory_stats(device)

    def peak_memory_bytes(self) -> int:
        """The most memory in use: on GPUs, together, since the last answer began, elsewhere of this process so far."""
        if self.device.type == "cuda":
            return sum(int(torch.cuda.max_memory_allocated(device)) for device in self.devices)
        return process_peak_bytes()


def load(request: ModelRequest, *, device: str, may_offload: bool = False, n_devices: int = 1) -> LoadedModel:
    """The model on a device (`cpu`, `cuda`, `cuda:1`, or `auto`). Raises RequestError for what cannot be loaded.

    may_offload: keys and values may go to host memory where a GPU's runs out; where it has one alone.
    n_devices: GPUs that its layers are spread over.
    """
    devices = devices_from(check_device(device), n_devices)
    check(request)
    check_machine(request, *devices)
    rope = rope_spec(request)
    tokenizer = load_tokenizer(request)
    hf = _weights(request)
    sites = find_sites(hf)
    _check_model(hf, request, rope, sites)
    place(hf.eval(), devices)
    # From here on the class's own embedding never runs: some rewrite their frequencies by the length they see.
    own = RopeScaling(inv_freq_P=rope.inv_freq_P, attention_factor=rope.attention_factor)
    for site in sites:
        site.put(site.pinned(own, devices[0]))
    return LoadedModel(
        hf=hf,
        tokenizer=tokenizer,
        rope=rope,
        devices=devices,
        request=request,
        sites=sites,
        eos_ids=eos_ids(hf.generation_config, tokenizer),
        limits=Limits.of(devices, may_offload=may_offload),
    )


def load_tokenizer(request: ModelRequest) -> Any:
    """The model's tokenizer. Raises RequestError."""
    from transformers import AutoTokenizer

    folder, gguf = folder_of(request)
    with _plain_errors(request), quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=request.trust_remote_code, local_files_only=True, **gguf
        )
    tokenizer.model_max_length = _NO_LIMIT  # the shipped one is the trained window: only a warning, and a wrong one
    return tokenizer


def check_machine(request: ModelRequest, *devices: torch.device) -> None:
    """Raises RequestError where devices cannot run the model's attention, or together hold its weights."""
    attention.check(request.attention, devices[0], getattr(torch, request.dtype))
    check_weights(request, *devices)


def check_weights(request: ModelRequest, *devices: torch.device) -> None:
    """Raises RequestError where devices cannot together hold the model's weights."""
    n_bytes = _n_weight_bytes(request, getattr(torch, request.dtype).itemsize)
    check_weights_fit(str(request.label), n_bytes, *devices)


def check_device(device: str) -> torch.device:
    """A device that is there. Raises RequestError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise RequestError(f"device '{device}' is no device: it should be cpu, cuda, cuda:1 or auto") from error
    there = torch.cuda.device_count() if found.type == "cuda" else int(found.type == "cpu")
    if (found.index or 0) >= there:
        raise RequestError(
            f"device '{device}' is not available: there is cpu and {torch.cuda.device_count()} CUDA devices"
        )
    return found


def _weights(request: ModelRequest) -> Any:
    from transformers import AutoModelForCausalLM

    folder, gguf = folder_of(request)
    options: dict[str, Any] = {**gguf}
    if gguf:
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    else:
        options["use_safetensors"] = True
    with _plain_errors(request), quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, request.dtype),
            attn_implementation=attention.implementation(request.attention),
            trust_remote_code=request.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **options,
        )
    hf, info = loaded
    absent = sorted({*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])})
    if absent:
        raise RequestError(
            f"model '{request.label}': the weights of {len(absent)} tensors are missing or of another shape "
            f"(first: {absent[0]}): they would be random numbers"
        )
    return hf


def _check_model(hf: Any, request: ModelRequest, rope: RopeSpec, sites: tuple[RotarySite, ...]) -> None:
    """Raises RequestError where the loaded model is not what was asked for, or not what its files were read as."""
    got, asked = hf.config.get_text_config(decoder=True)._attn_implementation, request.attention
    if got != attention.implementation(asked):
        raise RequestError(f"model '{request.label}': asked for attention = '{asked}', it came with '{got}'")
    attention.check_model(asked, hf)
    if "logits_to_keep" not in inspect.signature(hf.forward).parameters or hf.base_model is hf:
        raise RequestError(
            f"{type(hf).__name__} cannot give the logits of chosen positions: Longreach cannot score with it"
        )
    own = sites[0].own
    if len(own.inv_freq_P) != len(rope.inv_freq_P):
        raise RequestError(
            f"model '{request.label}' rotates {2 * len(own.inv_freq_P)} dimensions, {rope.rotary_dim} were stated: "
            f"write under [model.rope]: rotary_dim = {2 * len(own.inv_freq_P)}"
        )
    stated = set(request.rope or {}) - {"original_max_position_embeddings", "max_position_embeddings"}
    same = np.allclose(own.inv_freq_P, rope.inv_freq_P, rtol=1e-4) and np.isclose(
        own.attention_factor, rope.attention_factor
    )
    if not stated and not same:
        raise RequestError(
            f"model '{request.label}': {type(sites[0].stock).__name__} has other frequencies than its configuration "
            "was read as: state rope_theta, rotary_dim and original_max_position_embeddings under [model.rope]"
        )


def folder_of(request: ModelRequest) -> tuple[Path, dict[str, str]]:
    """The folder of the model's files, fetched where they are not here, and the option that names a GGUF in it."""
    source = locate(request)
    if source.gguf is not None:
        return source.gguf.parent, {"gguf_file": source.gguf.name}
    if source.folder is not None:
        return source.folder, {}
    folder = hub.fetch(source.repo_id, source.revision, code=request.trust_remote_code)
    files.check_folder(folder, trust_remote_code=request.trust_remote_code)
    return folder, {}


def _n_weight_bytes(request: ModelRequest, itemsize: int) -> int:
    """What the weights fill in memory; of a GGUF at least."""
    folder, gguf = folder_of(request)
    if gguf:
        return (folder / gguf["gguf_file"]).stat().st_size
    return sum(files.n_numbers(path) for path in files.weight_files(folder)) * itemsize


def eos_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a generation: those of the model's generation configuration, else its tokenizer's."""
    found = getattr(generation_config, "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    return frozenset() if found is None else frozenset([found] if isinstance(found, int) else found)


@contextmanager
def _plain_errors(request: ModelRequest) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, StrictDataclassError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RequestError(f"model '{request.label}' cannot be loaded: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """transformers' own progress bars and notices are off: what matters of them is raised here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
