"""The passkey test: a number between repetitions of a nonsense text."""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness.errors import unknown
from harness.types import Example, Metric, Output, Score
from tasks import scoring
from tasks.base import Tokenizer, check_length, sample_id, sample_rng
from tasks.haystack import NOISE, Haystack, load
from tasks.tokens import encode, leading_ids
from tasks.weaving import Filler, Weave, depth_grid

_TASKS = ("passkey", "passkey_longrope")
_LAST = 50_000
_NEW_TOKENS = 10
_HEAD = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there.\n"
)
_TAIL = "\nWhat is the pass key? The pass key is"
# The same sentences as the haystack `noise`, on one line.
_GARBAGE = Haystack.of("noise", (NOISE,), separator=" ")


def _needle(key: int) -> str:
    return f"The pass key is {key}. Remember it. {key} is the pass key."


@dataclass(frozen=True, kw_only=True)
class Passkey:
    """`passkey` fits the text to the length by tokens; `passkey_longrope` is LongRoPE's protocol to the letter.

    depths: as in the suite needle, for `passkey` alone; LongRoPE splits the text at random.

    Source: microsoft/LongRoPE c9e56aa, evaluation/passkey.py.
    """

    version: ClassVar[int] = 1
    outside_budget: ClassVar[Mapping[str, str]] = {
        "passkey_longrope": "the protocol gives 3.65 characters of filler for each token, whatever the tokenizer makes "
        "of them, and the question besides; the true length is each sample's n_tokens"
    }

    depths: int | tuple[float, ...] = 10

    def __post_init__(self) -> None:
        depth_grid(self.depths)

    def metric(self, task: str) -> Metric:
        """Right or wrong."""
        return Metric(name="first_number_equals", kind="binary")

    def tasks(self) -> tuple[str, ...]:
        """The one that keeps to its length."""
        return ("passkey",)

    def check(self, task: str) -> None:
        """Raises RequestError for an unknown task."""
        if task not in _TASKS:
            raise unknown("passkey task", task, _TASKS)

    def artifacts(self, task: str) -> Mapping[str, str]:
        """The hash of the nonsense text."""
        return {"haystack": load("noise").sha256}

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """The fixed text, a line of filler, and the answer."""
        fixed = _HEAD + _needle(_LAST) + NOISE + _TAIL
        return len(leading_ids(tokenizer)) + len(encode(tokenizer, fixed)) + _NEW_TOKENS

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` samples; `metadata` says how deep the key stands in the filler."""
        self.check(task)
        check_length("passkey", task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        depths = depth_grid(self.depths)
        for index in range(n):
            rng = sample_rng("passkey", self.version, task, seq_len=seq_len, index=index, seed=seed)
            if task == "passkey_longrope":
                text, key, depth = longrope_prompt(rng, seq_len)
                ids = leading_ids(tokenizer) + encode(tokenizer, text)
            else:
                key, depth = rng.randint(1, _LAST), depths[index % len(depths)]
                filler = Filler.draw(_GARBAGE, rng, tokenizer, seq_len)
                weave = Weave(head=_HEAD, main=_needle(key), depth=depth, others=(), tail=_TAIL)
                ids = weave.to(filler, tokenizer, n_tokens=seq_len - _NEW_TOKENS).ids
            yield Example(
                id=sample_id(task, seq_len=seq_len, index=index, seed=seed),
                prompt_ids=ids,
                max_new_tokens=_NEW_TOKENS,
                answers=(str(key),),
                metadata={"depth_fraction": depth, "haystack": "noise", "n_prompt_tokens": len(ids)},
            )

    def score(self, task: str, example: Example, output: Output) -> Score:
        """Whether the first number of the text is the key."""
        return Score(value=scoring.first_number_equals(output.text, int(example.answers[0])))

    def settled(self, task: str, example: Example, text: str) -> bool:
        """The first number has ended."""
        return re.search(r"[0-9][^0-9]", text) is not None


def longrope_prompt(rng: random.Random, n_tokens: int) -> tuple[str, int, float]:
    """LongRoPE's prompt for a nominal number of tokens; its key, and the share of the filler before it."""
    n_chars = int(n_tokens * 3.65)
    n_before = rng.randint(0, n_chars)
    key = rng.randint(1, _LAST)
    garbage = " ".join([NOISE] * (n_chars // len(NOISE) + 1))
    lines = (garbage[:n_before], _needle(key), garbage[: n_chars - n_before])
    return _HEAD + "\n".join(lines) + _TAIL, key, n_before / n_chars
