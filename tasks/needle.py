"""Needle in a haystack, in RULER's words: numbers that belong to keys, hidden in a text and asked for at its end."""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from harness.errors import RequestError, did_you_mean
from harness.types import Example, Metric, Output, Score, Segment
from tasks import scoring
from tasks.base import Tokenizer, check_length, sample_id, sample_rng
from tasks.haystack import KINDS, NOISE, load
from tasks.tokens import encode, leading_ids
from tasks.weaving import DepthInterval, Filler, Weave, Woven, depth_grid
from tasks.words import ADJECTIVES, NOUNS

_GRAMMAR = re.compile(r"keys([1-9][0-9]{0,3})(?:_values([1-9][0-9]{0,3}))?_(" + "|".join(KINDS) + ")")
_MOST_NEEDLES = 10_000
_TOKENS_A_VALUE = 16  # new tokens for a 7-digit number and the words around it, in any tokenizer


class _Task(NamedTuple):
    n_keys: int
    n_values: int
    haystack: str


@dataclass(frozen=True)
class Words:
    """The fixed sentences, in the plural or, for one value a key, in the singular.

    Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/{constants,niah}.py.
    """

    n_values: int

    def head(self) -> str:
        """What stands before the text, to the end of its line."""
        if self.n_values == 1:
            opening, noun = "A special magic number is", "number"
        else:
            opening, noun = "Some special magic numbers are", "numbers"
        return (
            f"{opening} hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {noun} afterwards.\n"
        )

    def needle(self, key: str, value: str) -> str:
        """The sentence that is hidden."""
        return f"One of the special magic numbers for {key} is: {value}."

    def tail(self, key: str) -> str:
        """The question, and the beginning of its answer up to the verb."""
        if self.n_values == 1:
            question, noun, verb = "What is the", "number", "is"
        else:
            question, noun, verb = "What are all the", "numbers", "are"
        what = f"special magic {noun} for {key} mentioned in the provided text"
        return f"\n{question} {what}? The {what} {verb}"

    def answer(self, values: list[str]) -> str:
        """The numbers as they are written behind the verb or its colon."""
        if len(values) < 3:
            return " " + " and ".join(values)
        return " " + ", ".join(values[:-1]) + ", and " + values[-1]


@dataclass(frozen=True, kw_only=True)
class Needle:
    """Tasks `keys{K}[_values{V}]_{haystack}`: K keys with V numbers each, of which one key is asked for.

    scoring: `generated` (the share of the key's numbers in the generated text) or `teacher_forced` (1 when each token
    of the answer is the most probable one).
    depths: how many depths the grid has from 0 to 1, or a list of fractions; sample i takes the i-th, round and round.
    The first number of the key stands there; all other needles stand anywhere.
    depth_interval: so many depths are spaced evenly, or `sigmoid`, densely towards both ends.
    max_new_tokens: 16 for each number unless given.
    books: the folder of the haystack `book`.

    Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/niah.py.
    Differs: exact token budget; needles between sentences of every haystack; stratified depths; own key words; when
    teacher-forced, a colon ends the prompt, as in the needle, so that the answer begins with a number.
    """

    version: ClassVar[int] = 1

    scoring: Literal["generated", "teacher_forced"] = "generated"
    depths: int | tuple[float, ...] = 10
    depth_interval: DepthInterval = "linear"
    max_new_tokens: int | None = None
    books: str | None = field(default=None, metadata={"path": True})

    def __post_init__(self) -> None:
        depth_grid(self.depths, self.depth_interval)
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens = {self.max_new_tokens}: it should be at least 1")

    def metric(self, task: str) -> Metric:
        """Teacher-forced or with one value a sample is right or wrong; with more it is a share of the values."""
        if self.scoring == "teacher_forced":
            return Metric(name="teacher_forced_match", kind="binary")
        return Metric(name="string_match_all", kind="binary" if _parse(task).n_values == 1 else "graded")

    def tasks(self) -> tuple[str, ...]:
        """One and four keys, in noise and in prose."""
        return ("keys1_noise", "keys4_noise", "keys1_docs", "keys4_docs")

    def check(self, task: str) -> None:
        """Raises RequestError for a name outside the grammar, or a haystack that is not there."""
        load(_parse(task).haystack, books=self.books)

    def artifacts(self, task: str) -> Mapping[str, str]:
        """The hash of the haystack."""
        return {"haystack": load(_parse(task).haystack, books=self.books).sha256}

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """The fixed text with the longest key everywhere, a line of noise, and the answer."""
        n_keys, n_values, _ = _parse(task)
        words = Words(n_values)
        key = "-".join(max(of, key=lambda word: len(encode(tokenizer, "-" + word))) for of in (ADJECTIVES, NOUNS))
        value = max(map(str, range(1_234_567, 9_999_999, 1_000_003)), key=lambda value: len(encode(tokenizer, value)))
        needles = " ".join([words.needle(key, value)] * n_keys * n_values)
        fixed = words.head() + needles + NOISE + words.tail(key)
        answer = ":" + words.answer([value] * n_values) if self.scoring == "teacher_forced" else ""
        return len(leading_ids(tokenizer)) + len(encode(tokenizer, fixed + answer)) + self._n_new(n_values)

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` samples; a prefix of them covers the depths evenly."""
        check_length("needle", task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        parsed, depths = _parse(task), depth_grid(self.depths, self.depth_interval)
        haystack = load(parsed.haystack, books=self.books)
        for index in range(n):
            rng = sample_rng("needle", self.version, task, seq_len=seq_len, index=index, seed=seed)
            filler = Filler.draw(haystack, rng, tokenizer, seq_len)
            keys = draw_keys(rng, parsed.n_keys)
            values = draw_values(rng, parsed.n_keys * parsed.n_values, filler.text)
            depth = depths[index % len(depths)]
            weave = self._weave(rng, parsed.n_values, keys, values, depth)
            woven = weave.to(filler, tokenizer, n_tokens=seq_len - self._n_new(parsed.n_values))
            yield self._example(
                woven,
                id=sample_id(task, seq_len=seq_len, index=index, seed=seed),
                answers=tuple(values[: parsed.n_values]),
                metadata={
                    "depth_fraction": depth,
                    "haystack": parsed.haystack,
                    "key": keys[0],
                    # of the key's needles, the one at `depth_fraction` first
                    "needle_positions": [round(at / woven.n_prompt, 4) for at in woven.starts[: parsed.n_values]],
                },
            )

    def score(self, task: str, example: Example, output: Output) -> Score:
        """The key's numbers in the text, or whether the answer was the most probable one."""
        if self.scoring == "teacher_forced":
            return scoring.teacher_forced_match(output.logprobs, output.greedy)
        return Score(
            value=scoring.string_match_all(output.text, example.answers),
            measures={"number_match_all": scoring.number_match_all(output.text, example.answers)},
        )

    def settled(self, task: str, example: Example, text: str) -> bool:
        """Every number is there, and the last one written has ended."""
        return (
            not re.match("[0-9]", text[-1:])
            and scoring.holds_all(text, example.answers)
            and scoring.number_match_all(text, example.answers) == 1.0
        )

    def _n_new(self, n_values: int) -> int:
        if self.scoring == "teacher_forced":
            return 0
        return _TOKENS_A_VALUE * n_values if self.max_new_tokens is None else self.max_new_tokens

    def _weave(self, rng: random.Random, n_values: int, keys: list[str], values: list[str], depth: float) -> Weave:
        """The first key is asked for; it owns the first `n_values` values."""
        words = Words(n_values)
        needles = [words.needle(keys[i // n_values], value) for i, value in enumerate(values)]
        others = [(needle, rng.random()) for needle in needles[1:]]
        head, tail, (main, own) = words.head(), words.tail(keys[0]), (needles[0], values[:n_values])
        if self.scoring == "generated":
            return Weave(head=head, main=main, depth=depth, others=others, tail=tail)

        def answer(context: str) -> str:
            return words.answer(sorted(own, key=context.index))

        return Weave(head=head, main=main, depth=depth, others=others, tail=tail + ":", answer=answer)

    def _example(self, woven: Woven, *, id: str, answers: tuple[str, ...], metadata: dict[str, object]) -> Example:
        if self.scoring == "teacher_forced":
            segment = Segment(token_ids=woven.ids, n_context=woven.n_prompt)
            return Example(id=id, segments=(segment,), answers=answers, metadata=metadata)
        n_new = self._n_new(len(answers))
        return Example(id=id, prompt_ids=woven.ids, max_new_tokens=n_new, answers=answers, metadata=metadata)


def _parse(task: str) -> _Task:
    found = _GRAMMAR.fullmatch(task)
    if found is None:
        known = [f"keys{keys}{values}_{kind}" for keys in (1, 2, 4, 8) for values in ("", "_values4") for kind in KINDS]
        raise RequestError(
            f"unknown needle task '{task}': {did_you_mean(task, known)}; "
            f"the form is keys{{K}}[_values{{V}}]_{{{'|'.join(KINDS)}}}"
        )
    parsed = _Task(int(found[1]), int(found[2] or 1), found[3])
    if parsed.n_keys > len(ADJECTIVES) * len(NOUNS):
        raise RequestError(f"needle task '{task}': there are {len(ADJECTIVES) * len(NOUNS)} keys to choose from")
    if parsed.n_keys * parsed.n_values > _MOST_NEEDLES:
        raise RequestError(f"needle task '{task}': keys x values should be at most {_MOST_NEEDLES}")
    return parsed


def draw_keys(rng: random.Random, n: int) -> list[str]:
    """Distinct keys, an adjective and a noun each."""
    numbers = rng.sample(range(len(ADJECTIVES) * len(NOUNS)), n)
    return [f"{ADJECTIVES[i // len(NOUNS)]}-{NOUNS[i % len(NOUNS)]}" for i in numbers]


def draw_values(rng: random.Random, n: int, filler: str) -> list[str]:
    """Distinct 7-digit numbers that do not stand in the filler."""
    values: list[str] = []
    while len(values) < n:
        value = str(rng.randint(1_000_000, 9_999_999))
        if value not in filler and value not in values:
            values.append(value)
    return values
