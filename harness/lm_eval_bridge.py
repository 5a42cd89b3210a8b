"""lm-eval and this engine: its requests as our token ids, and our models as its `LM`.

Both ways a text is tokenized by lm-eval's own rules, those of its `HFLM`. Importing this module imports lm-eval.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harness.batching import together
from harness.errors import RequestError
from harness.types import Example, Output, Segment
from methods.base import Method

_DEFAULT_NEW_TOKENS = 256  # where a task states none. Source: lm_eval 0.4.13, models/huggingface.py, HFLM.max_gen_toks
_Pair = tuple[Any, list[int], list[int]]  # the two texts, and their token ids


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generation request in tokens."""

    prompt_ids: Sequence[int]
    max_new_tokens: int
    stop: tuple[str, ...]


class RequestEncoder(TemplateLM):
    """lm-eval's requests as token ids: a causal HFLM without a model.

    Source: lm_eval 0.4.13, api/model.py TemplateLM and models/huggingface.py HFLM (the whitespace between context
    and continuation, special tokens, what stands before an empty context, rolling windows).
    """

    backend = "causal"

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on."""
        token: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if token is None else token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, with the special tokens the tokenizer adds unless the text begins with them."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **options)
        return ids

    def segments(self, requests: Sequence[Instance]) -> list[Segment]:
        """A segment for each loglikelihood request. Raises ValueError where a continuation has no token of its own."""
        pairs: Any = TemplateLM.loglikelihood(_Pairs(self.tokenizer), list(requests), disable_tqdm=True)
        return [_segment(context, continuation) for _, context, continuation in pairs]

    def windows(self, text: str, max_seq_len: int) -> list[Segment]:
        """Segments of at most `max_seq_len` tokens that score each token of a text once."""
        pairs = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=max_seq_len - 1,  # lm-eval counts what the model reads: not the last token, only predicted
            context_len=1,
        )
        return [_segment(*make_disjoint_window(pair)) for pair in pairs]

    def generation(self, request: Instance) -> Generation:
        """A generate_until request. Raises RequestError where it asks for sampling."""
        context, settings = request.args
        given = normalize_gen_kwargs(settings, _DEFAULT_NEW_TOKENS)
        if given["do_sample"]:
            raise RequestError(f"generation_kwargs = {settings}: Longreach answers greedily, do_sample should be false")
        bos = self.tokenizer.bos_token
        plain = {"add_special_tokens": False} if bos and context.startswith(bos) else {}
        return Generation(
            prompt_ids=self.tokenizer(context, **plain)["input_ids"],
            max_new_tokens=given["max_gen_toks"],
            stop=tuple(stop for stop in given["until"] if stop),
        )

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as one text."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a RequestEncoder has no model")

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Not answered here."""
        raise NotImplementedError("a RequestEncoder has no model")

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Not answered here."""
        raise NotImplementedError("a RequestEncoder has no model")


class _Pairs(RequestEncoder):
    """Gives back the token ids that lm-eval's own `loglikelihood` made; encodes the context of several choices once."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._encoded: dict[tuple[str, bool | None], list[int]] = {}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        key = string, add_special_tokens
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(string, add_special_tokens)
        return self._encoded[key]

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
        return requests


class LongreachLM(RequestEncoder):
    """A loaded model under a method as an lm-eval `LM`: `simple_evaluate(model=LongreachLM(...), tasks=[...])`.

    max_length: the longest request, prompt and new tokens together; a longer one is refused, never cut. The rolling
    windows have this length.
    """

    def __init__(self, model: Any, method: Method, *, max_length: int) -> None:
        super().__init__(model.tokenizer)
        self._model = model
        self._method = method
        self.max_length = max_length
        self._device = model.device

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's records."""
        return str(self._model.request.label)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text, window by window."""
        found = []
        for request in requests:
            segments = self.windows(request.args[0], self.max_length)
            output = self._answer(Example(id="", segments=tuple(segments))) if segments else Output()
            found.append(sum(sum(row) for row in output.logprobs))
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, longest first, those that one RoPE answers in batches."""
        asked = [self.generation(request) for request in requests]
        examples = [
            Example(id=str(place), prompt_ids=one.prompt_ids, max_new_tokens=one.max_new_tokens, stop=one.stop)
            for place, one in enumerate(asked)
        ]
        for example in examples:
            self._check_length(example)
        texts: dict[str, str] = {}
        for group in together(examples, self._method, self._model.rope):
            with self._method.applied(self._model, seq_len=max(example.n_tokens for example in group)):
                while left := [example for example in group if example.id not in texts]:
                    self._generate(left, texts)
        return [texts[example.id] for example in examples]

    def _generate(self, examples: Sequence[Example], texts: dict[str, str]) -> None:
        """The texts of as many as memory holds: where it runs out, the next attempt has half as many at once."""
        import torch

        from harness.models.memory import rows_that_fit

        n_rows = max(1, rows_that_fit(self._model, max(example.n_tokens for example in examples)))
        try:
            for place, output in self._model.answer_each(examples, [None] * len(examples), n_rows=n_rows):
                texts[examples[place].id] = output.text
        except (MemoryError, torch.OutOfMemoryError):
            if n_rows == 1:
                raise
            self._model.limits.batch = n_rows // 2

    def _loglikelihood_tokens(self, requests: Sequence[_Pair], **kwargs: Any) -> list[tuple[float, bool]]:
        """Log-likelihoods, longest context first; the requests of one context are asked in one example."""
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i][1]), requests[i][1]))
        found: dict[int, tuple[float, bool]] = {}
        for _, indices in groupby(order, key=lambda i: requests[i][1]):
            group = list(indices)
            segments = tuple(_segment(*requests[i][1:]) for i in group)
            output = self._answer(Example(id="", segments=segments))
            found |= dict(zip(group, loglikelihoods(output), strict=True))
        return [found[i] for i in range(len(requests))]

    def _check_length(self, example: Example) -> None:
        if example.n_tokens > self.max_length:
            raise RequestError(
                f"a request needs {example.n_tokens} tokens: max_length = {self.max_length} is too short"
            )

    def _answer(self, example: Example) -> Output:
        self._check_length(example)
        with self._method.applied(self._model, seq_len=example.n_tokens):
            output: Output = self._model.answer(example)
        return output


def loglikelihoods(output: Output) -> list[tuple[float, bool]]:
    """For each segment, the log-probability of its continuation, and whether greedy decoding would give it."""
    return [(sum(row), all(greedy)) for row, greedy in zip(output.logprobs, output.greedy, strict=True)]


def _segment(context: Iterable[int], continuation: Sequence[int]) -> Segment:
    before = tuple(context)
    if not continuation:
        raise ValueError("a choice has no token of its own: the tokenizer merges it into what stands before it")
    return Segment(token_ids=(*before, *continuation), n_context=len(before))


__all__ = ["Generation", "LongreachLM", "RequestEncoder", "loglikelihoods"]
