"""Greedy generation for several prompts at once; each row ends when it has nothing more to say that counts."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from harness.models.attention import attending
from harness.models.caches import BufferCache, Cache
from harness.models.decoding import Decoder, Piece, most_probable
from harness.models.drafting import Drafter
from harness.models.forward import cache_for, padded, read
from harness.models.prefixes import shared_length
from harness.types import Example, Output, Stopped

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

# Short prompts are read together, up to so many tokens of a pass.
_TOGETHER = {"cpu": 512, "cuda": 16384}
# A prompt that begins as the one before it goes on from there when they share this part of it: reading on is slower
# than reading from the start where only the first pass has the fastest kernels.
_SHARED_PART = {"cpu": 0.1, "cuda": 0.5}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt, and when to stop writing.

    settled: whether a text has a score that nothing written behind it could change.
    written: tokens at the prompt's end that belong to the answer: its text begins with them.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    settled: Callable[[str], bool] | None = None
    written: tuple[int, ...] = ()

    @classmethod
    def of(cls, example: Example, settled: Callable[[str], bool] | None) -> "Request":
        """What a sample asks for."""
        return cls(
            prompt_ids=example.prompt_ids,
            max_new_tokens=example.max_new_tokens,
            stop=tuple(example.stop),
            settled=settled,
        )

    def is_settled(self, text: str) -> bool:
        """Whether what is certain of a text is settled."""
        return self.settled is not None and self.settled(_certain(text, self.stop))


@dataclass(eq=False)
class _Row:
    """A request on its way."""

    place: int
    request: Request
    tokens: list[int] = field(default_factory=list)
    stopped: Stopped | None = None
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @cached_property
    def drafter(self) -> Drafter:
        """Guesses its next tokens."""
        return Drafter(self.request.prompt_ids, self.request.max_new_tokens)

    def draft(self) -> list[int]:
        """Tokens that may come after the last one, and leave room for the one after them."""
        return self.drafter.guess(self.tokens, self.request.max_new_tokens - len(self.tokens) - 1)

    def take(self, draft: Sequence[int], choices: Sequence[int], model: "LoadedModel") -> None:
        """The model's choices behind the last token and behind each token of a draft, as far as the draft is right.

        One after the other, as if each had been the only one.
        """
        n_right = 0
        for token, guessed in zip(choices, [*draft, None], strict=True):
            self.add(token, model)
            if self.stopped or token != guessed:
                break
            n_right += 1
        self.drafter.judge(len(draft), n_right)

    @property
    def position(self) -> int:
        """Where the last token stands."""
        return len(self.request.prompt_ids) + len(self.tokens) - 1

    def add(self, token: int, model: "LoadedModel") -> None:
        """Take the next token, and stop if it is the last one."""
        self.tokens.append(token)
        request = self.request
        text = self.text(model) if request.stop or request.settled else ""
        if token in model.eos_ids:
            self.stopped = "eos"
        elif any(end in text for end in request.stop):
            self.stopped = "stop"
        elif len(self.tokens) >= request.max_new_tokens:
            self.stopped = "length"
        elif request.is_settled(text):
            self.stopped = "settled"

    def text(self, model: "LoadedModel") -> str:
        """What was written, without special tokens."""
        tokens = [*self.request.written, *self.tokens]
        text: str = model.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def output(self, model: "LoadedModel", attention: str) -> Output:
        """The answer."""
        text = self.text(model)
        ends = [text.index(end) for end in self.request.stop if end in text]
        return Output(
            text=text[: min(ends)] if ends else text,
            token_ids=tuple(self.tokens),
            stopped=self.stopped,
            attention=attention,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
        )


def ended(model: Any, request: Request, tokens: Sequence[int], attention: str) -> Output:
    """The answer that these tokens are, up to where `generate_each` would have ended it.

    model: whatever has `tokenizer` and `eos_ids`. `stopped` is None where it would have gone on behind the last one.
    """
    row = _Row(0, request)
    for token in tokens:
        row.add(token, model)
        if row.stopped:
            break
    return row.output(model, attention)


def _certain(text: str, stop: Sequence[str]) -> str:
    """What of a text no later token takes back: no character whose bytes are not all there, no stop text's begin."""
    text = text.rstrip("\ufffd")
    held = max((n for end in stop for n in range(1, len(end)) if text.endswith(end[:n])), default=0)
    return text[: len(text) - held]


def generate(
    model: "LoadedModel", prompt_ids: Sequence[int], *, max_new_tokens: int, stop: Sequence[str] = ()
) -> Output:
    """Greedy continuation of one prompt; see `generate_each`."""
    request = Request(prompt_ids=prompt_ids, max_new_tokens=max_new_tokens, stop=tuple(stop))
    ((_, output),) = generate_each(model, [request])
    return output


def generate_each(
    model: "LoadedModel", requests: Sequence[Request], *, n_rows: int = 1
) -> Iterator[tuple[int, Output]]:
    """Greedy continuations, each with its request's place as soon as it is there, `n_rows` of them on their way.

    They end at an end-of-sequence token, the first stop text, a settled score, or the budget. The text holds the new
    tokens only, without special tokens, and ends before the stop text; `token_ids` holds everything that was generated.
    Raises FloatingPointError on logits that are not finite.
    """
    if model.switch is None:
        return generate_under_one_rope(model, requests, n_rows=n_rows)
    from harness.models.switching import generate_switching

    return generate_switching(model, requests, n_rows=n_rows)


@torch.no_grad()
def generate_under_one_rope(
    model: "LoadedModel", requests: Sequence[Request], *, n_rows: int = 1
) -> Iterator[tuple[int, Output]]:
    """`generate_each` for requests that are answered under the model's present RoPE from first to last token."""
    for request in requests:
        if len(request.prompt_ids) < 1 or request.max_new_tokens < 1:
            raise ValueError(
                f"{len(request.prompt_ids)} prompt and {request.max_new_tokens} new tokens: "
                "there should be at least one each"
            )
    rows = [_Row(place, request) for place, request in enumerate(requests)]
    if model.can_batch:
        groups = [sorted(rows, key=lambda row: list(row.request.prompt_ids))]
    else:
        groups = [[row] for row in rows]
    for group in groups:
        longest = max(padded(model, len(row.request.prompt_ids)) + row.request.max_new_tokens for row in group)
        with attending() as note, cache_for(model, min(n_rows, len(group)), longest) as cache:
            decoder = Decoder(model, cache, note, max(row.request.max_new_tokens for row in group))
            for row in _Flow(model, cache, decoder, group, min(n_rows, len(group))):
                yield row.place, row.output(model, "+".join(sorted(note.used)) or model.request.attention)


class _Flow:
    """Rows through the slots of a cache: one that stops makes place for the next.

    Iterating gives each row once it has stopped.
    """

    def __init__(
        self, model: "LoadedModel", cache: Cache, decoder: Decoder, queue: Sequence[_Row], n_slots: int
    ) -> None:
        self._model, self._cache, self._decoder = model, cache, decoder
        self._queue, self._next = queue, 0  # in the order of their tokens
        self._slots: list[_Row | None] = [None] * n_slots
        self._last_slot = 0  # holds the prompt that was read last

    def __iter__(self) -> Iterator[_Row]:
        while True:
            while self._next < len(self._queue) and (free := [i for i, row in enumerate(self._slots) if _done(row)]):
                yield from self._read(free)
            open_rows = [row for row in self._slots if row is not None and row.stopped is None]
            if not open_rows:
                return
            yield from self._write(open_rows)

    def _read(self, free: Sequence[int]) -> list[_Row]:
        """Reads the next prompts and takes their first tokens; the rows that stop there."""
        began = time.perf_counter()
        n_shared = self._n_shared(self._next)
        rows = [self._queue[self._next]]
        if n_shared and free[0] != self._last_slot:
            assert isinstance(self._cache, BufferCache)  # only these have several slots
            self._cache.copy_prefix(self._last_slot, free[0], n_shared)
        if not n_shared:
            rows = self._together(free)
        slots = slice(free[0], free[0] + len(rows))
        prompts = [row.request.prompt_ids for row in rows]
        tokens = most_probable(read(self._model, self._cache, slots, prompts, n_shared))
        for row, token in zip(rows, tokens, strict=True):
            row.add(token, self._model)
            row.prefill_s = (time.perf_counter() - began) / len(rows)
        self._slots[slots] = rows
        self._next += len(rows)
        self._last_slot = slots.stop - 1
        return [row for row in rows if row.stopped]

    def _together(self, free: Sequence[int]) -> list[_Row]:
        """The rows that are read in one pass into neighbouring slots: short ones that share nothing."""
        rows: list[_Row] = [self._queue[self._next]]
        longest = len(rows[0].request.prompt_ids)
        for offset in range(1, len(free)):
            at = self._next + offset
            if at == len(self._queue) or free[offset] != free[0] + offset or self._n_shared(at):
                break
            longest = max(longest, len(self._queue[at].request.prompt_ids))
            if (offset + 1) * longest > _TOGETHER.get(self._model.device.type, 0):
                break
            rows.append(self._queue[at])
        return rows

    def _n_shared(self, at: int) -> int:
        """How many tokens of a prompt need not be read, since the one before it in the queue has them."""
        if at == 0 or not self._model.can_batch:
            return 0
        ids = self._queue[at].request.prompt_ids
        n_shared = min(shared_length(self._queue[at - 1].request.prompt_ids, ids), len(ids) - 1)
        return n_shared if n_shared >= _SHARED_PART.get(self._model.device.type, 1.0) * len(ids) else 0

    def _write(self, open_rows: Sequence[_Row]) -> list[_Row]:
        """At least one more token for each open row; the rows that stop there."""
        began = time.perf_counter()
        if self._decoder.reads_pieces:
            self._write_drafts()
        else:
            self._write_one(open_rows)
        for row in open_rows:
            row.decode_s += (time.perf_counter() - began) / len(open_rows)
        return [row for row in open_rows if row.stopped]

    def _write_one(self, open_rows: Sequence[_Row]) -> None:
        if not self._decoder.keeps_rows and 2 * len(open_rows) <= len(self._slots):
            self._keep(open_rows)
        rows = [row if row is not None else open_rows[0] for row in self._slots]
        tokens = self._decoder.step([row.tokens[-1] for row in rows], [row.position for row in rows])
        for row, token in zip(self._slots, tokens, strict=True):
            if row is not None and row.stopped is None:
                row.add(token, self._model)

    def _write_drafts(self) -> None:
        """What a draft got wrong stays in the cache behind the row's end, where the next pass writes over it."""
        rows = [(slot, row) for slot, row in enumerate(self._slots) if row is not None and row.stopped is None]
        drafts = [row.draft() for _, row in rows]
        try:
            found = self._decoder.read(_pieces(rows, drafts))
        except FloatingPointError:  # of a wrong draft, perhaps: one NaN, though masked, spoils what is read with it
            drafts = [[] for _ in rows]
            found = [self._decoder.read([piece])[0] for piece in _pieces(rows, drafts)]
        for (_, row), draft, choices in zip(rows, drafts, found, strict=True):
            row.take(draft, choices, self._model)

    def _keep(self, open_rows: Sequence[_Row]) -> None:
        """Nothing waits any more: the open rows move together, the other slots are given up."""
        assert isinstance(self._cache, BufferCache)
        kept = [index for index, row in enumerate(self._slots) if not _done(row)]
        self._cache.keep(kept, max(row.position for row in open_rows))
        self._slots = list(open_rows)


def _pieces(rows: Sequence[tuple[int, _Row]], drafts: Sequence[Sequence[int]]) -> list[Piece]:
    """The last token of the row in each slot, and its draft."""
    return [
        Piece(slot, row.position, [row.tokens[-1], *draft]) for (slot, row), draft in zip(rows, drafts, strict=True)
    ]


def _done(row: _Row | None) -> bool:
    return row is None or row.stopped is not None
