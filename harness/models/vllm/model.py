"""A model that vLLM runs, behind the interface of `harness.models.loading.LoadedModel`, for generation."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.environment import package_version, process_peak_bytes
from harness.errors import RequestError
from harness.models import loading
from harness.models.generation import Request, ended
from harness.models.request import ModelRequest, check
from harness.models.rope_facts import rope_spec
from harness.models.vllm.check import model_config
from harness.models.vllm.engine import Answered, Engine, EngineSource
from harness.models.vllm.settings import settings
from harness.types import Example, Output, Regime
from methods.base import RopeScaling, RopeSpec

_BATCH = 64  # requests that an engine is given at once; it decides itself how many it runs
_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}  # its log would go to standard output
NAME = "vllm"


@dataclass
class VllmLimits:
    """What is said of the engine in a finished cell, and how many requests it is given at once."""

    batch: int = _BATCH
    backend: str = NAME
    version: str | None = None

    def relieve(self) -> bool:
        """An engine's memory is allotted when it starts: nothing can be given up."""
        return False


@dataclass(kw_only=True, eq=False)
class VllmModel:
    """A model ready to answer under the RoPE that a method put on it.

    One engine lives at a time: it serves one RoPE, so that requests inside the window and beyond it have one each
    where the method tells them apart, and the next one starts when a request needs it.
    """

    tokenizer: Any
    rope: RopeSpec
    device: torch.device
    request: ModelRequest
    source: EngineSource
    eos_ids: frozenset[int]
    limits: VllmLimits
    scaling: RopeScaling | None = None
    engine: Engine | None = None
    sites: tuple[()] = ()  # nothing to swap: the RoPE is an argument of an engine

    @property
    def regime(self) -> Regime:
        """Which RoPE a request that runs now is answered under."""
        return "original" if self.scaling is None or self.scaling.is_original(self.rope) else "rescaled"

    @property
    def can_batch(self) -> bool:
        """Whether several requests can be answered at once."""
        return True

    def rows_that_fit(self, n_tokens: int) -> int:
        """How many requests an engine is given at once."""
        return self.limits.batch

    def answer(self, example: Example, settled: "loading.Settled | None" = None) -> Output:
        """Generates. Raises RequestError for an example that is to be scored."""
        if example.segments:
            raise RequestError(
                f"sample '{example.id}' scores given texts: backend = 'vllm' only generates, backend = 'transformers' "
                "runs it"
            )
        ((_, output),) = self.answer_each([example], [settled])
        return output

    def answer_each(
        self, examples: Sequence[Example], settled: "Sequence[loading.Settled | None]", *, n_rows: int = 1
    ) -> Iterator[tuple[int, Output]]:
        """Generates, `n_rows` at once: each answer, with its example's place.

        Stop texts and settled scores end an answer where `LoadedModel` ends it; the engine may have written on.
        """
        requests = [Request.of(example, check) for example, check in zip(examples, settled, strict=True)]
        for begin in range(0, len(requests), n_rows):
            part = requests[begin : begin + n_rows]
            for place, (request, answered) in enumerate(zip(part, self._generated(part), strict=True), begin):
                yield place, self._output(request, answered)

    def peak_memory_bytes(self) -> int:
        """What is in use of the GPU, vLLM's whole cache in it; elsewhere the most that this process had so far."""
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            return int(total - free)
        return process_peak_bytes()

    def close(self) -> None:
        """Ends the engine that lives."""
        if self.engine is not None:
            engine, self.engine = self.engine, None
            engine.close()

    def _generated(self, requests: Sequence[Request]) -> list[Answered]:
        scaling = self.scaling or RopeScaling(
            inv_freq_P=self.rope.inv_freq_P, attention_factor=self.rope.attention_factor
        )
        n_tokens = max(len(request.prompt_ids) + request.max_new_tokens for request in requests)
        if self.engine is None or not self.engine.takes(scaling, n_tokens):
            self.close()
            self.engine = Engine(self.source, scaling, n_tokens)
        try:
            return self.engine.generate(requests, eos_ids=self.eos_ids)
        except FloatingPointError:  # said of answers that are all there
            raise
        except Exception:
            self.close()  # it may be dead, or still hold some of these requests
            raise

    def _output(self, request: Request, answered: Answered) -> Output:
        output = ended(self, request, answered.token_ids, NAME)
        if output.stopped is None:
            if answered.finish_reason != "stop" or not isinstance(answered.stop_reason, str):
                raise RuntimeError(
                    f"vLLM ended after {len(answered.token_ids)} of {request.max_new_tokens} tokens "
                    f"({answered.finish_reason}, {answered.stop_reason})"
                )
            # It joins the tokens' texts one by one, and may see a stop text there that the whole text has not.
            output = replace(output, text=answered.text, stopped="stop")
        return replace(output, decode_s=answered.seconds)


def load(request: ModelRequest, *, device: str) -> VllmModel:
    """The model on a device; its first engine starts with the first request. Raises RequestError."""
    found_device = loading.check_device(device)
    check(request)
    check_machine(request, found_device)
    folder, _ = loading.folder_of(request)
    tokenizer = loading.load_tokenizer(request)
    rope = rope_spec(request)
    return VllmModel(
        tokenizer=tokenizer,
        rope=rope,
        device=found_device,
        request=request,
        source=EngineSource(
            label=str(request.label),
            folder=folder,
            dtype=request.dtype,
            trust_remote_code=request.trust_remote_code,
            rope=rope,
            config=model_config(request),
            settings=settings(request.vllm),
        ),
        eos_ids=_eos_ids(request, tokenizer),
        limits=VllmLimits(version=package_version("vllm")),
    )


def check_machine(request: ModelRequest, device: torch.device) -> None:
    """Raises RequestError for a device that the installed vLLM does not run on, or that lacks GPUs."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # read as vllm is imported
    from vllm.platforms import current_platform

    where = f"model '{request.label}': backend = 'vllm'"
    if current_platform.device_type != device.type:
        there = current_platform.device_type or "no device of this machine"
        raise RequestError(
            f"{where}: the installed vLLM runs on {there}, not on {device.type}: name another --device, or use "
            "backend = 'transformers'"
        )
    if device.index:
        raise RequestError(
            f"{where} takes the first GPU it sees, not '{device}': set CUDA_VISIBLE_DEVICES={device.index}, and "
            "--device cuda"
        )
    n_gpus, wanted = torch.cuda.device_count(), settings(request.vllm).tensor_parallel_size
    if device.type == "cuda" and wanted > n_gpus:
        raise RequestError(f"{where}: tensor_parallel_size = {wanted}: there are {n_gpus} GPUs")
    if wanted == 1:
        loading.check_weights(request, device)


def _eos_ids(request: ModelRequest, tokenizer: Any) -> frozenset[int]:
    """The end-of-sequence tokens that `loading` gives the same model."""
    from transformers import AutoConfig, GenerationConfig

    folder, _ = loading.folder_of(request)
    if (folder / "generation_config.json").is_file():
        return loading.eos_ids(GenerationConfig.from_pretrained(folder), tokenizer)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=request.trust_remote_code, local_files_only=True)
    return loading.eos_ids(GenerationConfig.from_model_config(config), tokenizer)
