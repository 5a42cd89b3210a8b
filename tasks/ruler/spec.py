"""The thirteen tasks: their parameters, prompts and new-token budgets, as the authors set them.

Source: NVIDIA/RULER c3f5e3b, scripts/synthetic.yaml, scripts/data/synthetic/constants.py,
scripts/eval/synthetic/constants.py.
"""

from dataclasses import dataclass
from typing import Literal

SHORTEST = 256  # tokens; no task is asked for below, many need more
AUTHORS_SHORTEST = 4096  # the shortest of the lengths the authors report; below it some sizes shrink


@dataclass(frozen=True, kw_only=True)
class NiahTask:
    """Needles that give keys values, and a question for all values of `n_queries` keys."""

    haystack: Literal["noise", "essay", "needle"]
    key: Literal["words", "uuids"] = "words"
    value: Literal["numbers", "uuids"] = "numbers"
    n_keys: int = 1
    n_values: int = 1
    n_queries: int = 1
    n_new_tokens: int = 128

    @property
    def n_answers(self) -> int:
        """How many references an answer is held against."""
        return self.n_queries * self.n_values


@dataclass(frozen=True, kw_only=True)
class ChainTask:
    """One chain of assignments in noise; every variable of the chain is asked for."""

    n_hops: int = 4
    n_new_tokens: int = 30

    @property
    def n_answers(self) -> int:
        """The variables of the chain."""
        return self.n_hops + 1


@dataclass(frozen=True, kw_only=True)
class CommonWordsTask:
    """A numbered list; its ten most frequent words are asked for. Repeats are (common, others)."""

    n_common: int = 10
    repeats: tuple[int, int] = (30, 3)
    shot_repeats: tuple[int, int] = (10, 3)
    shot_words: int = 40
    # below `AUTHORS_SHORTEST`
    short_repeats: tuple[int, int] = (6, 1)
    short_shot_repeats: tuple[int, int] = (3, 1)
    short_shot_words: int = 20
    n_new_tokens: int = 120

    @property
    def n_answers(self) -> int:
        """The common words."""
        return self.n_common


@dataclass(frozen=True, kw_only=True)
class FrequentWordsTask:
    """Coded words whose counts follow a zeta distribution; the three most frequent are asked for."""

    alpha: float = 2.0
    word_length: int = 6
    n_answers: int = 3
    n_new_tokens: int = 50


@dataclass(frozen=True, kw_only=True)
class QaTask:
    """A question among numbered documents; any of its references is an answer."""

    data: Literal["squad", "hotpotqa"]
    n_answers: int = 1
    n_new_tokens: int = 32


Task = NiahTask | ChainTask | CommonWordsTask | FrequentWordsTask | QaTask

TASKS: dict[str, Task] = {
    "niah_single_1": NiahTask(haystack="noise"),
    "niah_single_2": NiahTask(haystack="essay"),
    "niah_single_3": NiahTask(haystack="essay", value="uuids"),
    "niah_multikey_1": NiahTask(haystack="essay", n_keys=4),
    "niah_multikey_2": NiahTask(haystack="needle"),
    "niah_multikey_3": NiahTask(haystack="needle", key="uuids", value="uuids"),
    "niah_multivalue": NiahTask(haystack="essay", n_values=4),
    "niah_multiquery": NiahTask(haystack="essay", n_keys=4, n_queries=4),
    "vt": ChainTask(),
    "cwe": CommonWordsTask(),
    "fwe": FrequentWordsTask(),
    "qa_1": QaTask(data="squad"),
    "qa_2": QaTask(data="hotpotqa"),
}

# A template, and the prefix that the answer goes on from, behind the header of the assistant's turn.

NIAH_TEMPLATE = (
    "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {type_needle_v} afterwards.\n{context}\n"
    "What are all the special magic {type_needle_v} for {query} mentioned in the provided text?"
)
NIAH_PREFIX = " The special magic {type_needle_v} for {query} mentioned in the provided text are"
NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."

CHAIN_TEMPLATE = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
    "Question: Find all variables that are assigned the value {query} in the text above."
)
CHAIN_PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are assigned the "
    "value {query}, they are: "
)

COMMON_WORDS_TEMPLATE = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?"
)
COMMON_WORDS_PREFIX = " Answer: The top 10 words that appear most often in the list are:"

FREQUENT_WORDS_TEMPLATE = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text?"
)
FREQUENT_WORDS_PREFIX = " Answer: According to the coded text above, the three most frequently appeared words are:"

QA_TEMPLATE = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n\n{context}\n\n"
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "Question: {query}"
)
QA_PREFIX = " Answer:"
DOCUMENT = "Document {i}:\n{document}"
