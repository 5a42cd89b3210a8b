"""What a suite is: examples drawn from a keyed generator, and a score for each answer."""

import random
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from harness.errors import RequestError
from harness.types import Example, Metric, Output, Score, content_hash

Tokenizer = Any  # a transformers tokenizer


@runtime_checkable
class Suite(Protocol):
    """A family of tasks. A suite is a frozen dataclass whose fields are a preset's settings.

    `version` is raised when the suite's samples or scores change.
    """

    version: ClassVar[int]

    def metric(self, task: str) -> Metric:
        """What the task's score is."""
        ...

    def tasks(self) -> tuple[str, ...]:
        """The tasks a preset gets when it names none."""
        ...

    def check(self, task: str) -> None:
        """Raises RequestError for a task the suite does not have, or data it cannot find."""
        ...

    def artifacts(self, task: str) -> Mapping[str, str]:
        """name -> sha256 of every text the task's samples are made from: part of a result's identity."""
        ...

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """The fewest tokens (prompt + new) a sample of the task can have."""
        ...

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` samples of at most `seq_len` tokens, prompt and new tokens together.

        The same (version, task, seq_len, index, seed) gives the same sample whatever `n` is.
        A suite that reproduces a protocol with a budget of its own says so in a class attribute
        `outside_budget`: task -> reason. Raises RequestError for a length below `shortest`.
        """
        ...

    def score(self, task: str, example: Example, output: Output) -> Score:
        """How good an answer is: a fraction in [0, 1]."""
        ...


@runtime_checkable
class SettlesEarly(Protocol):
    """A suite that can tell when a generation is over before the model ends it."""

    def settled(self, task: str, example: Example, text: str) -> bool:
        """Whether every text that begins with this one has the score and the measures of this one."""
        ...


def sample_rng(suite: str, version: int, task: str, *, seq_len: int, index: int, seed: int) -> random.Random:
    """The generator of one sample; nothing else is drawn from it."""
    key = content_hash([suite, version, task, seq_len, index, seed])
    return random.Random(int(key[:16], 16))


def sample_id(task: str, *, seq_len: int, index: int, seed: int) -> str:
    """A name for a sample that is unique inside its suite."""
    return f"{task}/{seq_len}/{seed}/{index}"


def check_length(suite: str, task: str, *, seq_len: int, shortest: int) -> None:
    """Raises RequestError where the task's fixed text does not fit."""
    if seq_len < shortest:
        raise RequestError(
            f"{suite} task '{task}': a length of {seq_len} tokens is too short, the shortest is {shortest}"
        )
