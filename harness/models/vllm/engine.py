"""One engine of vLLM: one RoPE for all its requests. This and `model` are the only modules that import vllm.

vLLM chooses between the short and the long factors once, for the whole engine, by `max_model_len >
original_max_position_embeddings`. An engine here has the same list in both places, so that choice changes nothing.
Source: vllm-project/vllm@17d618b vllm/model_executor/layers/rotary_embedding/phi3_long_rope_scaled_rope.py.
"""

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.models.generation import Request
from harness.models.vllm.settings import VllmSettings
from harness.types import JSON
from methods.base import RopeScaling, RopeSpec
from methods.longrope.export import vllm_engine

_LEAST_STEP = 4096  # tokens by which a window is rounded up, at long lengths more: an engine takes minutes to start
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What an engine wrote. seconds: this request's equal part of the time that all took together."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None  # stop | length
    stop_reason: int | str | None  # the token, or the text, that stopped it
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EngineSource:
    """What every engine of a model is started from."""

    label: str
    folder: Path
    dtype: str
    trust_remote_code: bool
    rope: RopeSpec
    config: dict[str, JSON]
    settings: VllmSettings


class Engine:
    """A running engine. Raises RequestError where it does not start, or took another RoPE than it was given."""

    def __init__(self, source: EngineSource, scaling: RopeScaling, n_tokens: int) -> None:
        self._scaling = scaling
        self._max_model_len = window_for(n_tokens, source.rope.original_max_position_embeddings)
        given = vllm_engine(scaling, source.rope, max_model_len=self._max_model_len, config=source.config)
        self._llm: Any = _started(source, given)
        try:
            _check_taken(self._llm, source, given)
        except RequestError:
            self.close()
            raise

    def takes(self, scaling: RopeScaling, n_tokens: int) -> bool:
        """Whether it answers requests of this length under this RoPE."""
        return n_tokens <= self._max_model_len and scaling.same_as(self._scaling)

    def generate(self, requests: Sequence[Request], *, eos_ids: frozenset[int]) -> list[Answered]:
        """Greedy continuations of token ids as they are, in the order of the requests.

        Raises FloatingPointError where a written token has no finite probability.
        """
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        params = [SamplingParams(**_sampling(request, eos_ids)) for request in requests]
        began = time.perf_counter()
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        seconds = (time.perf_counter() - began) / len(requests)
        if [list(output.prompt_token_ids) for output in outputs] != [prompt["prompt_token_ids"] for prompt in prompts]:
            raise RuntimeError("vLLM answered other prompts than it was given")
        return [_answered(output.outputs[0], seconds) for output in outputs]

    def close(self) -> None:
        """Ends the engine, and gives its memory back."""
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()


def window_for(n_tokens: int, window: int) -> int:
    """`max_model_len` for requests of so many tokens: the trained window inside it, beyond it a rounded length."""
    if n_tokens <= window:
        return window
    step = max(_LEAST_STEP, 1 << max(0, n_tokens.bit_length() - 4))
    return -(-n_tokens // step) * step


def _started(source: EngineSource, given: dict[str, JSON]) -> Any:
    from vllm import LLM

    try:
        return LLM(
            model=str(source.folder),
            dtype=source.dtype,
            trust_remote_code=source.trust_remote_code,
            seed=SEED,
            generation_config="vllm",  # the model's own sampling defaults are left out
            **asdict(source.settings),
            **given,
        )
    except Exception as error:  # of vLLM, of the model's code, or of CUDA: none of them has an engine to go on with
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise RequestError(
            f"model '{source.label}': vLLM starts no engine for {given['max_model_len']} tokens: {reason}"
        ) from error


def _check_taken(llm: Any, source: EngineSource, given: dict[str, JSON]) -> None:
    """A model class that reads its RoPE from elsewhere would answer under another one, and say nothing."""
    wanted = given["hf_overrides"]["rope_parameters"]
    config = llm.llm_engine.model_config
    found = getattr(config.hf_text_config, "rope_parameters", None) or {}
    lists = {name: list(found.get(name) or ()) for name in ("short_factor", "long_factor")}
    scales = ("rope_type", "rope_theta", "short_mscale", "long_mscale")
    same = all(lists[name] == wanted[name] for name in lists) and all(found.get(n) == wanted[n] for n in scales)
    if not same or config.max_model_len != given["max_model_len"]:
        raise RequestError(
            f"model '{source.label}': vLLM did not take the RoPE that it was given: use backend = 'transformers'"
        )


def _sampling(request: Request, eos_ids: frozenset[int]) -> dict[str, Any]:
    """Arguments of `SamplingParams`. The ends of a sequence are ours, whatever vLLM reads from the model's files.

    Source: vllm-project/vllm@00388f6 vllm/sampling_params.py; @018d5dc vllm/v1/core/sched/utils.py, `check_stop`.
    """
    return {
        "temperature": 0.0,
        "max_tokens": request.max_new_tokens,
        "stop": list(request.stop),
        "stop_token_ids": sorted(eos_ids),
        "ignore_eos": True,
        "detokenize": bool(request.stop),
        "spaces_between_special_tokens": False,
        "logprobs": 0,  # the written token's alone: NaN shows there
    }


def _answered(completion: Any, seconds: float) -> Answered:
    if not math.isfinite(completion.cumulative_logprob):
        raise FloatingPointError("vLLM's logits hold numbers that are not finite")
    return Answered(
        token_ids=tuple(completion.token_ids),
        text=completion.text,
        finish_reason=completion.finish_reason,
        stop_reason=completion.stop_reason,
        seconds=seconds,
    )
