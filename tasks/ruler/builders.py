"""The builder of a task at a length, with the words and texts it draws from."""

import random

from tasks import haystack
from tasks.ruler.essays import EssaySentences
from tasks.ruler.niah import NiahBuilder
from tasks.ruler.prompts import Prompt
from tasks.ruler.sample import Builder, Shuffle
from tasks.ruler.spec import AUTHORS_SHORTEST, SHORTEST, ChainTask, CommonWordsTask, FrequentWordsTask, NiahTask, Task
from tasks.ruler.variable_tracking import SHOT_TOKENS, ChainBuilder, ShotPlan, draw_places, shot_question
from tasks.ruler.word_counts import CommonWordsBuilder, FrequentWordsBuilder
from tasks.ruler.words import KeyWords, ListWords
from tasks.tokens import encode

_PROBES = 16  # samples that the smallest prompt is measured on


def task_builder(task: Task, prompt: Prompt, shuffle: Shuffle, *, seq_len: int, redraws_shot: bool) -> Builder:
    """The builder of any task but QA; with the solved example where it fits into the length.

    redraws_shot: the places in vt's example are drawn for each sample, not once.
    """
    if isinstance(task, NiahTask):
        essays = EssaySentences(haystack.load("essay").text) if task.haystack == "essay" else None
        return NiahBuilder(task=task, shuffle=shuffle, words=KeyWords.load(), essays=essays)
    if isinstance(task, FrequentWordsTask):
        return FrequentWordsBuilder(task=task, shuffle=shuffle, seq_len=seq_len)
    with_shot: Builder
    without_shot: Builder
    if isinstance(task, ChainTask):
        with_shot = ChainBuilder(task=task, shot=_shot_plan(task, prompt, redraws_places=redraws_shot))
        without_shot = ChainBuilder(task=task, shot=None)
    else:
        assert isinstance(task, CommonWordsTask)
        words = ListWords.load()
        with_shot, without_shot = (
            CommonWordsBuilder(task=task, shuffle=shuffle, words=words, seq_len=seq_len, with_shot=with_shot)
            for with_shot in (True, False)
        )
    if seq_len >= AUTHORS_SHORTEST or _largest(with_shot, prompt) + task.n_new_tokens <= seq_len:
        return with_shot
    return without_shot


def smallest_prompt(task: Task, prompt: Prompt, shuffle: Shuffle) -> int:
    """Tokens of the longest of some samples at their smallest size; any task but QA."""
    return _largest(task_builder(task, prompt, shuffle, seq_len=SHORTEST, redraws_shot=False), prompt)


def _largest(builder: Builder, prompt: Prompt) -> int:
    size = builder.smallest
    probes = (builder.build(random.Random(probe), size, n_drawn=size) for probe in range(_PROBES))
    return max(len(prompt.ids(sample)) for sample in probes)


def _shot_plan(task: ChainTask, prompt: Prompt, *, redraws_places: bool) -> ShotPlan:
    """As many lines of noise as the example's budget of tokens holds."""
    rng = random.Random(0)
    names = ["".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=3)) for _ in range(task.n_answers)]

    def fits(n_lines: int) -> bool:
        places = draw_places(random.Random(0), task.n_answers, n_lines)
        return len(encode(prompt.tokenizer, shot_question(names, "12345", places, n_lines))) <= SHOT_TOKENS

    n_lines = task.n_answers
    while fits(n_lines + 1):
        n_lines += 1
    return ShotPlan(n_lines, None if redraws_places else draw_places(rng, task.n_answers, n_lines))
