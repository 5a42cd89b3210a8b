"""Key-value retrieval: the value that stands beside a key in a JSON object of random identifiers.

Source: nelson-liu/lost-in-the-middle 29b8a6d, scripts/make_kv_retrieval_data.py and src/lost_in_the_middle
(arXiv:2307.03172, section 3).
"""

import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, floor
from typing import ClassVar, NamedTuple

from harness.errors import unknown
from harness.types import Example, Metric, Output, Score
from tasks import scoring
from tasks.base import Tokenizer, check_length, sample_id, sample_rng
from tasks.tokens import EncodedText, encode, encode_text, leading_ids
from tasks.weaving import DepthInterval, depth_grid

_HEAD = "Extract the value corresponding to the specified key in the JSON object below.\n\n"
_TASKS = {
    "kv_retrieval": (_HEAD + "JSON data:\n", '\n\nKey: "{key}"\nCorresponding value:'),
    "kv_retrieval_query_aware": (
        _HEAD + 'Key: "{key}"\n\nJSON data:\n',
        '\n\nKey: "{key}"\nCorresponding value:',
    ),
}
_FULL = 0.95  # of the length
_FEWEST_PAIRS = 2
_PROBES = (2, 34)  # pairs that a pair's tokens are counted on
_TRIES = 6


class Pair(NamedTuple):
    """Two identifiers."""

    key: str
    value: str


def render(task: str, pairs: Sequence[Pair], key: str) -> str:
    """The prompt that asks for a key's value. Raises KeyError for an unknown task."""
    head, tail = _TASKS[task]
    lines = ",\n ".join(f'"{pair.key}": "{pair.value}"' for pair in pairs)
    return head.replace("{key}", key) + "{" + lines + "}" + tail.replace("{key}", key)


@dataclass(frozen=True, kw_only=True)
class KeyValue:
    """`kv_retrieval` asks for a key behind the object, `kv_retrieval_query_aware` before it and behind it.

    depths: how many places of the pair that is asked for, from 0 (first) to 1 (last), or a list of fractions; sample i
    takes the i-th, round and round.
    depth_interval: so many places are spaced evenly, or `sigmoid`, densely towards both ends.
    max_new_tokens: more where the length is so short that whole pairs and these tokens fill less than 0.95 of it.

    Differs: as many pairs as fit the length in place of a fixed number; every sample draws its own.
    """

    version: ClassVar[int] = 1

    depths: int | tuple[float, ...] = 10
    depth_interval: DepthInterval = "linear"
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        depth_grid(self.depths, self.depth_interval)
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens = {self.max_new_tokens}: it should be at least 1")

    def metric(self, task: str) -> Metric:
        """Whether the value stands in the answer."""
        return Metric(name="string_match_all", kind="binary")

    def tasks(self) -> tuple[str, ...]:
        """The one whose key the model meets last."""
        return ("kv_retrieval",)

    def check(self, task: str) -> None:
        """Raises RequestError for an unknown task."""
        if task not in _TASKS:
            raise unknown("key_value task", task, _TASKS)

    def artifacts(self, task: str) -> Mapping[str, str]:
        """Nothing: all text is drawn."""
        return {}

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """Two pairs whose every character is a token, the question, and the answer."""
        self.check(task)
        n_identifiers = sum(text.count("{key}") for text in _TASKS[task])
        identifiers = n_identifiers + 2 * _FEWEST_PAIRS
        fixed = render(task, [Pair("", "")] * _FEWEST_PAIRS, "")
        n_fixed = len(leading_ids(tokenizer)) + len(encode(tokenizer, fixed))
        return n_fixed + identifiers * len(str(uuid.UUID(int=0))) + self.max_new_tokens

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` samples; a prefix of them covers the depths evenly."""
        check_length("key_value", task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        depths, leading = depth_grid(self.depths, self.depth_interval), leading_ids(tokenizer)
        room = seq_len - self.max_new_tokens - len(leading)
        for index in range(n):
            rng = sample_rng("key_value", self.version, task, seq_len=seq_len, index=index, seed=seed)
            depth = depths[index % len(depths)]
            fitted = _fit(_Draws(task, rng, depth), tokenizer, room)
            ids = leading + fitted.tokens.ids
            at = len(leading) + fitted.tokens.token_at(fitted.text.index(f'"{fitted.gold.key}": '))
            yield Example(
                id=sample_id(task, seq_len=seq_len, index=index, seed=seed),
                prompt_ids=ids,
                max_new_tokens=max(self.max_new_tokens, ceil(_FULL * seq_len) - len(ids)),
                answers=(fitted.gold.value,),
                metadata={
                    "depth_fraction": depth,
                    "key": fitted.gold.key,
                    "n_pairs": fitted.n_pairs,
                    "needle_positions": [round(at / len(ids), 4)],
                },
            )

    def score(self, task: str, example: Example, output: Output) -> Score:
        """Whether the value stands in the text, whatever its case.

        Source: as above, scripts/evaluate_kv_responses.py.
        """
        return Score(value=scoring.string_match_all(output.text, example.answers))

    def settled(self, task: str, example: Example, text: str) -> bool:
        """The value is there."""
        return scoring.holds_all(text, example.answers)


class _Draws:
    """The pairs of one sample, drawn as they are needed: how many of them are used changes none."""

    def __init__(self, task: str, rng: random.Random, depth: float) -> None:
        self._task, self._rng, self._depth = task, rng, depth
        self._pairs: dict[str, str] = {}
        self.gold = self._first(1)[0]

    def text(self, n_pairs: int) -> str:
        """The prompt of so many pairs, the gold one at its depth."""
        _, *pairs = self._first(n_pairs)
        pairs.insert(round(self._depth * (n_pairs - 1)), self.gold)
        return render(self._task, pairs, self.gold.key)

    def _first(self, n: int) -> list[Pair]:
        while len(self._pairs) < n:
            self._pairs[self._identifier()] = self._identifier()
        return [Pair(*item) for item in islice(self._pairs.items(), n)]

    def _identifier(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The longest prompt that fits."""

    text: str
    tokens: EncodedText
    n_pairs: int
    gold: Pair


def _fit(draws: _Draws, tokenizer: Tokenizer, room: int) -> _Fitted:
    """At most `room` tokens, which two pairs never exceed."""
    few, more = (len(encode(tokenizer, draws.text(n))) for n in _PROBES)
    a_pair = (more - few) / (_PROBES[1] - _PROBES[0])
    n_pairs = max(_FEWEST_PAIRS, _PROBES[0] + floor((room - few) / a_pair))
    best: _Fitted | None = None
    tried: set[int] = set()
    while best is None or (n_pairs not in tried and len(tried) < _TRIES):
        tried.add(n_pairs)
        text = draws.text(n_pairs)
        tokens = encode_text(tokenizer, text)
        spare = room - len(tokens.ids)
        if spare >= 0 and (best is None or n_pairs > best.n_pairs):
            best = _Fitted(text, tokens, n_pairs, draws.gold)
        n_pairs = max(_FEWEST_PAIRS, n_pairs + floor(spare / a_pair))
    return best
