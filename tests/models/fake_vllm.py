"""A package `vllm` that answers with transformers' Llama under the RoPE that the given overrides mean to vLLM.

Written from what vLLM does, not from what Longreach gives it. Source: vllm-project/vllm@17d618b
vllm/model_executor/layers/rotary_embedding/phi3_long_rope_scaled_rope.py and @00388f6 vllm/sampling_params.py.

Shape letters: B batch, L tokens, P rotary pairs, D rotary dimensions.
"""

import math
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

VERSION = "0.99.0"


class TableRope(torch.nn.Module):
    """vLLM's longrope: two tables of cos and sin, one of them chosen for the whole engine."""

    def __init__(self, parameters: dict, rotary_dim: int, max_position_embeddings: int, max_model_len: int) -> None:
        super().__init__()
        window = parameters["original_max_position_embeddings"]
        scale = max_position_embeddings / window
        default = math.sqrt(1 + math.log(scale) / math.log(window)) if scale > 1 else 1.0
        kind, n_positions = ("long", max_position_embeddings) if max_model_len > window else ("short", window)
        factors_P = torch.tensor(parameters[f"{kind}_factor"], dtype=torch.float32)
        powers_P = parameters["rope_theta"] ** (torch.arange(0, rotary_dim, 2).float() / rotary_dim)
        angles_LP = torch.arange(n_positions).float()[:, None] / (factors_P * powers_P)
        self.table_LD = torch.cat([angles_LP, angles_LP], dim=-1)
        self.mscale = parameters.get(f"{kind}_mscale", default)

    def forward(self, x, position_ids, layer_type=None):
        angles_BLD = self.table_LD[position_ids]
        return (angles_BLD.cos() * self.mscale).to(x.dtype), (angles_BLD.sin() * self.mscale).to(x.dtype)


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    stop: list = field(default_factory=list)
    stop_token_ids: list = field(default_factory=list)
    ignore_eos: bool = False
    detokenize: bool = True
    spaces_between_special_tokens: bool = True
    logprobs: int | None = None


class LLM:
    """`vllm.LLM`. made: every engine's arguments. most_alive: how many lived at a time. fails: calls to fail, by error.

    drops: overrides that the model class does not read. nan_at: the call whose logits are no numbers.
    """

    made: ClassVar[list[dict]] = []
    prompts: ClassVar[list[list[int]]] = []
    alive = most_alive = n_calls = 0
    fails: ClassVar[dict[int, Exception]] = {}
    nan_at: int | None = None
    drops: tuple[str, ...] = ()
    refuses: str | None = None

    def __init__(self, model, *, dtype, seed, hf_overrides, max_model_len, **settings) -> None:
        cls = type(self)
        if cls.refuses:
            raise ValueError(f"\n{cls.refuses}\nand a trace of many lines")
        if max_model_len > hf_overrides["max_position_embeddings"]:
            raise ValueError("User-specified max_model_len is greater than the derived max_model_len")
        cls.made.append({"max_model_len": max_model_len, "hf_overrides": hf_overrides, **settings})
        cls.alive += 1
        cls.most_alive = max(cls.most_alive, cls.alive)
        self._hf = LlamaForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        parameters = {k: v for k, v in hf_overrides["rope_parameters"].items() if k not in cls.drops}
        text = SimpleNamespace(rope_parameters=parameters)
        self._max_model_len = max_model_len
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(hf_text_config=text, max_model_len=max_model_len),
            engine_core=SimpleNamespace(shutdown=self._shutdown),
        )
        if not cls.drops:
            longest = hf_overrides["max_position_embeddings"]
            self._hf.model.rotary_emb = TableRope(parameters, self._hf.config.head_dim, longest, max_model_len)

    def _shutdown(self) -> None:
        type(self).alive -= 1

    def generate(self, prompts, sampling_params, *, use_tqdm):
        cls = type(self)
        cls.n_calls += 1
        if cls.n_calls in cls.fails:
            raise cls.fails.pop(cls.n_calls)
        outputs = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            ids = prompt["prompt_token_ids"]
            assert params.temperature == 0 and len(ids) + params.max_tokens <= self._max_model_len
            cls.prompts.append(ids)
            logprob = math.nan if cls.n_calls == cls.nan_at else -1.0
            outputs.append(SimpleNamespace(prompt_token_ids=ids, outputs=[self._completion(ids, params, logprob)]))
        return outputs

    @torch.no_grad()
    def _completion(self, ids, params, logprob):
        tokens, cache, piece_BL = [], None, torch.tensor([ids])
        reason, stop_reason, text = "length", None, ""
        while len(tokens) < params.max_tokens:
            out = self._hf(piece_BL, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, piece_BL = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(int(piece_BL))
            text = self._tokenizer.decode(tokens, skip_special_tokens=True) if params.detokenize else ""
            if tokens[-1] in params.stop_token_ids:
                reason, stop_reason = "stop", tokens[-1]
                break
            found = [end for end in params.stop if end in text]
            if found:
                reason, stop_reason, text = "stop", found[0], text[: text.index(found[0])]
                break
        return SimpleNamespace(
            token_ids=tokens, text=text, finish_reason=reason, stop_reason=stop_reason, cumulative_logprob=logprob
        )


def install(patch: pytest.MonkeyPatch, device_type: str = "cpu") -> type[LLM]:
    """This package in vLLM's place until the patch is undone; its `LLM`, with nothing counted yet."""
    fresh = type("LLM", (LLM,), {"made": [], "prompts": [], "fails": {}})
    package, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    package.__spec__ = ModuleSpec("vllm", None, is_package=True)
    package.LLM, package.SamplingParams = fresh, SamplingParams
    platforms.current_platform = SimpleNamespace(device_type=device_type)
    patch.setitem(sys.modules, "vllm", package)
    patch.setitem(sys.modules, "vllm.platforms", platforms)
    for place in ("settings", "model"):
        patch.setattr(f"harness.models.vllm.{place}.package_version", lambda name: VERSION)
    return fresh
