"""The suites `ruler-nvidia` and `ruler-fixed`."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from statistics import median
from typing import ClassVar, NamedTuple

from harness.errors import RequestError, unknown
from harness.types import Example, Metric, Output, Score, content_hash
from tasks import haystack, scoring
from tasks.base import Tokenizer, check_length, sample_id, sample_rng
from tasks.ruler import qa_data
from tasks.ruler.builders import smallest_prompt, task_builder
from tasks.ruler.essays import punkt
from tasks.ruler.fitting import Fitted, calibrate, fit
from tasks.ruler.prompts import Prompt, PromptKind
from tasks.ruler.qa import QaBuilder
from tasks.ruler.sample import Shuffle, authors_shuffle, drawn_shuffle
from tasks.ruler.spec import SHORTEST, TASKS, CommonWordsTask, NiahTask, QaTask, Task
from tasks.ruler.words import KeyWords, ListWords

_REDRAWS = 100  # of a sample that is too long even at its smallest
_JUDGED_QUESTIONS = 100  # the shortest length of a QA task rests on so many


class _Cell(NamedTuple):
    task: str
    seq_len: int
    rngs: list[random.Random]  # a generator a sample


@dataclass(frozen=True, kw_only=True)
class AbstractRuler:
    """The thirteen tasks; what remains open is how lists are shuffled.

    prompt: `base`, the bare text, or `chat`, the text in the model's own chat template.
    data_dir: the folder of SQuAD and HotpotQA for qa_1 and qa_2; without one they come from the Hub.

    Below 4096 tokens, where the authors' generator ends only for some tasks, sizes shrink as far as a task allows: the
    solved example of vt and cwe is left out where it does not fit.
    """

    version: ClassVar[int] = 1
    name: ClassVar[str]
    redraws_orders: ClassVar[bool]  # from a sample's own generator, instead of the authors' fixed seed

    prompt: PromptKind = "base"
    data_dir: str | None = field(default=None, metadata={"path": True})

    def metric(self, task: str) -> Metric:
        """A sample with one reference, or of which one is enough, is right or wrong; others are a share."""
        spec = _spec(task)
        name = "string_match_part" if isinstance(spec, QaTask) else "string_match_all"
        return Metric(name=name, kind="binary" if spec.n_answers == 1 else "graded")

    def tasks(self) -> tuple[str, ...]:
        """All thirteen."""
        return tuple(TASKS)

    def check(self, task: str) -> None:
        """Raises RequestError for an unknown task, and for data or a package that is not there."""
        self.artifacts(task)
        spec = _spec(task)
        if isinstance(spec, NiahTask) and spec.haystack == "essay":
            punkt()

    def artifacts(self, task: str) -> Mapping[str, str]:
        """The hashes of the words, the essays, and the questions with their documents."""
        spec, found = _spec(task), {}
        if isinstance(spec, NiahTask):
            words = KeyWords.load()
            found["words"] = content_hash([words.adjectives, words.nouns])
            if spec.haystack == "essay":
                found["essays"] = haystack.load("essay").sha256
        elif isinstance(spec, CommonWordsTask):
            lists = ListWords.load()
            found["words"] = content_hash([lists.first, lists.further])
        elif isinstance(spec, QaTask):
            found[spec.data] = qa_data.load(spec.data, self.data_dir).sha256
        return found

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """The length at which samples fit: the longest of some, at their smallest.

        Of QA: the length at which half of the first hundred questions fit.
        """
        spec, prompt = _spec(task), Prompt.of(tokenizer, self.prompt)
        if not isinstance(spec, QaTask):
            return max(smallest_prompt(spec, prompt, self._shuffle) + spec.n_new_tokens, SHORTEST)
        builder = self._qa_builder(spec, prompt, seq_len=0)
        questions = builder.data.questions[:_JUDGED_QUESTIONS]
        return max(int(median(map(builder.smallest, questions))) + spec.n_new_tokens, SHORTEST)

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` samples, each filled up to the length."""
        check_length(self.name, task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        spec, prompt = _spec(task), Prompt.of(tokenizer, self.prompt)
        cell = _Cell(task, seq_len, [self._rng(task, seq_len, index, seed) for index in range(n)])
        made = self._qa(cell, spec, prompt) if isinstance(spec, QaTask) else self._generated(cell, spec, prompt)
        for index, (sample, ids) in enumerate(made):
            yield Example(
                id=sample_id(task, seq_len=seq_len, index=index, seed=seed),
                prompt_ids=ids,
                max_new_tokens=spec.n_new_tokens,
                answers=sample.answers,
                metadata=sample.metadata,
            )

    def score(self, task: str, example: Example, output: Output) -> Score:
        """The share of references in the answer; of QA, whether one of them is in it."""
        if isinstance(_spec(task), QaTask):
            return Score(value=max(scoring.string_match_all(output.text, [answer]) for answer in example.answers))
        return Score(value=scoring.string_match_all(output.text, example.answers))

    def settled(self, task: str, example: Example, text: str) -> bool:
        """All references that count are in the answer."""
        if isinstance(_spec(task), QaTask):
            return any(scoring.holds_all(text, [answer]) for answer in example.answers)
        return scoring.holds_all(text, example.answers)

    @property
    def _shuffle(self) -> Shuffle:
        return drawn_shuffle if self.redraws_orders else authors_shuffle

    def _rng(self, task: str, seq_len: int, index: int, seed: int) -> random.Random:
        return sample_rng(self.name, self.version, task, seq_len=seq_len, index=index, seed=seed)

    def _generated(self, cell: _Cell, spec: Task, prompt: Prompt) -> Iterator[Fitted]:
        """Samples of any task but QA."""
        seq_len, budget = cell.seq_len, cell.seq_len - spec.n_new_tokens
        builder = task_builder(spec, prompt, self._shuffle, seq_len=seq_len, redraws_shot=self.redraws_orders)

        def build(draws: int, size: int, n_drawn: int) -> Fitted:
            sample = builder.build(random.Random(draws), size, n_drawn=n_drawn)
            return sample, prompt.ids(sample)

        # A generator of the cell's own: the estimate is the same whatever samples are asked for.
        draws = self._rng(f"{cell.task} size", seq_len, 0, 0).getrandbits(64)
        scale = calibrate(lambda size: len(build(draws, size, size)[1]), budget=budget, smallest=builder.smallest)
        for rng in cell.rngs:
            for draws in (rng.getrandbits(64) for _ in range(_REDRAWS)):
                make = partial(build, draws, n_drawn=scale.n_drawn)
                found = fit(make, scale, budget=budget, seq_len=seq_len)
                if found is not None:
                    yield found
                    break
            else:
                raise RequestError(f"{self.name} task '{cell.task}': no sample fits into {seq_len} tokens")

    def _qa(self, cell: _Cell, spec: QaTask, prompt: Prompt) -> Iterator[Fitted]:
        builder, n = self._qa_builder(spec, prompt, seq_len=cell.seq_len), len(cell.rngs)
        questions = list(islice(builder.questions(), n))
        if len(questions) < n:
            raise RequestError(
                f"{self.name} task '{cell.task}': {n} samples of {cell.seq_len} tokens are asked for, "
                f"the data has {len(questions)} questions that fit"
            )
        for question, rng in zip(questions, cell.rngs, strict=True):
            yield builder.fit(rng, question)

    def _qa_builder(self, spec: QaTask, prompt: Prompt, *, seq_len: int) -> QaBuilder:
        return QaBuilder(
            data=qa_data.load(spec.data, self.data_dir),
            prompt=prompt,
            shuffle=self._shuffle,
            seq_len=seq_len,
            n_new_tokens=spec.n_new_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class RulerNvidia(AbstractRuler):
    """RULER as its authors generate it.

    Source: arXiv:2404.06654; NVIDIA/RULER c3f5e3b. The authors shuffle with a generator seeded with 42 every time, so
    that for one size the needles of several keys, the words of cwe and fwe and the document that answers stand at the
    same places in every sample; kept here.
    Differs: each sample has a generator of its own; lengths are filled more exactly and count special tokens; essays
    are the 49 of the needle test, each on its own, not these and some 160 more run together.
    """

    name: ClassVar[str] = "ruler-nvidia"
    redraws_orders: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class RulerFixed(AbstractRuler):
    """RULER with every order drawn anew for each sample: needles, words, documents, the solved example of vt.

    Differs from `ruler-nvidia` in nothing else: questions keep the order of their file.
    """

    name: ClassVar[str] = "ruler-fixed"
    redraws_orders: ClassVar[bool] = True


def _spec(task: str) -> Task:
    if task not in TASKS:
        raise unknown("RULER task", task, TASKS)
    return TASKS[task]
