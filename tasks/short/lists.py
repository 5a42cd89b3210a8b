"""The short-context lists that papers quote, as suites with their few-shot counts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.types import Example, Metric, Output, Score
from tasks.base import Tokenizer
from tasks.perplexity import Perplexity
from tasks.short.suite import LmEval


@dataclass(frozen=True, kw_only=True)
class Short(LmEval):
    """MMLU, HellaSwag, ARC-challenge, TruthfulQA, GSM8K, MMLU-Pro and WinoGrande, few-shot as leaderboards ask them.

    Source: Open LLM Leaderboard v1 (ARC 25, HellaSwag 10, MMLU 5, TruthfulQA mc2 0, WinoGrande 5, GSM8K 5); MMLU-Pro
    5 with chain of thought, as its authors ask it (arXiv:2406.01574).
    """

    shots: ClassVar[Mapping[str, int]] = {
        "mmlu": 5,
        "hellaswag": 10,
        "arc_challenge": 25,
        "truthfulqa_mc2": 0,
        "gsm8k": 5,
        "mmlu_pro": 5,
        "winogrande": 5,
    }

    def tasks(self) -> tuple[str, ...]:
        """The whole list."""
        return tuple(self.shots)


@dataclass(frozen=True, kw_only=True)
class ShortSmall(LmEval):
    """For models at chance on `short`: MMLU as continuations, ARC-easy, PIQA, HellaSwag, LAMBADA, perplexity; 0-shot.

    Source: zero-shot with acc_norm, and LAMBADA by acc, as Pythia (arXiv:2304.01373) and small models since; MMLU in
    its continuation ("cloze") form as OLMES (arXiv:2406.08446). `docs_whole` is the task of the suite `perplexity`.
    """

    shots: ClassVar[Mapping[str, int]] = {
        "mmlu_continuation": 0,
        "arc_easy": 0,
        "piqa": 0,
        "hellaswag": 0,
        "lambada_openai": 0,
    }
    _perplexity: ClassVar[str] = "docs_whole"

    def tasks(self) -> tuple[str, ...]:
        """The whole list."""
        return (*self.shots, self._perplexity)

    def metric(self, task: str) -> Metric:
        """The task's score."""
        return Perplexity().metric(task) if task == self._perplexity else super().metric(task)

    def check(self, task: str) -> None:
        """Raises RequestError as `LmEval` does."""
        return Perplexity().check(task) if task == self._perplexity else super().check(task)

    def artifacts(self, task: str) -> Mapping[str, str]:
        """The task's definition and texts."""
        return Perplexity().artifacts(task) if task == self._perplexity else super().artifacts(task)

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """The fewest tokens of a sample."""
        if task == self._perplexity:
            return Perplexity().shortest(task, tokenizer)
        return super().shortest(task, tokenizer)

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` samples."""
        settings: dict[str, Any] = {"seq_len": seq_len, "n": n, "seed": seed, "tokenizer": tokenizer}
        if task == self._perplexity:
            return Perplexity().examples(task, **settings)
        return super().examples(task, **settings)

    def score(self, task: str, example: Example, output: Output) -> Score:
        """How good an answer is."""
        if task == self._perplexity:
            return Perplexity().score(task, example, output)
        return super().score(task, example, output)
