"""The engines that benchmarks/engine.py puts side by side: ours, lm-eval's HFLM, plain `generate`, a bare forward pass.

Each answers the same samples with the same weights under the same method, and says each sample's text.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.models.generation import Request, generate_each
from harness.models.memory import rows_that_fit
from harness.types import Example

LM_EVAL = "0.4.13"
Answers = list[str] | None  # None where nothing is generated
Engine = Callable[[Any, Any, str, Sequence[Example]], Answers]  # model, suite, task, samples


def ours(model: Any, suite: Any, task: str, samples: Sequence[Example], *, early_stop: bool = True) -> Answers:
    """Longreach: batched, and each row ends when its score can no longer change."""
    settled = getattr(suite, "settled", None) if early_stop else None
    requests = [
        Request(
            prompt_ids=sample.prompt_ids,
            max_new_tokens=sample.max_new_tokens,
            settled=functools.partial(settled, task, sample) if settled else None,
        )
        for sample in samples
    ]
    n_rows = max(1, rows_that_fit(model, max(sample.n_tokens for sample in samples)))
    found = dict(generate_each(model, requests, n_rows=n_rows))
    return [found[place].text for place in range(len(samples))]


@torch.no_grad()
def forward(model: Any, suite: Any, task: str, samples: Sequence[Example]) -> Answers:
    """The floor: one pass of the model over each prompt, and the logits of its last token."""
    for sample in samples:
        model.hf(input_ids=torch.tensor([list(sample.prompt_ids)], device=model.device), logits_to_keep=1)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return None


@torch.no_grad()
def generate(model: Any, suite: Any, task: str, samples: Sequence[Example]) -> Answers:
    """transformers' own `generate`, one sample at a time."""
    texts = []
    with _their_attention(model):
        for sample in samples:
            ids = torch.tensor([list(sample.prompt_ids)], device=model.device)
            out = model.hf.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=sample.max_new_tokens,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=sorted(model.eos_ids) or None,
            )
            texts.append(model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def hflm(model: Any, suite: Any, task: str, samples: Sequence[Example], *, batch_size: int) -> Answers:
    """lm-eval's HFLM around the same weights."""
    HFLM = importlib.import_module("lm_eval.models.huggingface").HFLM
    Instance = importlib.import_module("lm_eval.api.instance").Instance
    longest = max(sample.n_tokens for sample in samples)
    with _their_attention(model):
        lm = HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=batch_size, max_length=longest + 8)
        requests = []
        for index, sample in enumerate(samples):
            text = model.tokenizer.decode(list(sample.prompt_ids))
            settings = {"until": [], "max_gen_toks": sample.max_new_tokens, "do_sample": False, "temperature": 0.0}
            requests.append(
                Instance(request_type="generate_until", doc={}, arguments=(text, settings), idx=index)
            )  # fmt: skip
        found: list[str] = lm.generate_until(requests, disable_tqdm=True)
    return found


def lm_eval_missing() -> str | None:
    """Why lm-eval cannot be measured, or None."""
    try:
        found = importlib.import_module("lm_eval").__version__
        importlib.import_module("lm_eval.models.huggingface")
    except ImportError as error:
        return f"lm-eval is not measured: {error}; pip install 'lm-eval[hf]=={LM_EVAL}'"
    return None if found == LM_EVAL else f"lm-eval is not measured: version {found}, this script knows {LM_EVAL}"


@dataclass(frozen=True)
class Named:
    """An engine under the name it has in the table."""

    name: str
    run: Engine


def engines(batch_sizes: Sequence[int], *, with_lm_eval: bool) -> list[Named]:
    """All of them; HFLM once for each batch size."""
    found = [
        Named("longreach", ours),
        Named("longreach, no early stop", functools.partial(ours, early_stop=False)),
        Named("forward pass alone", forward),
        Named("generate", generate),
    ]
    if with_lm_eval:
        found += [Named(f"HFLM, batch {size}", functools.partial(hflm, batch_size=size)) for size in batch_sizes]
    return found


@contextlib.contextmanager
def _their_attention(model: Any) -> Iterator[None]:
    """transformers' own default, as the other engines would have it."""
    config = model.hf.config.get_text_config(decoder=True)
    before = config._attn_implementation
    model.hf.set_attn_implementation("eager" if before == "eager" else "sdpa")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)
