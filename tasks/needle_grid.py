"""The published needle grid: one sentence about San Francisco in essays, at every length and depth.

Source: gkamradt/LLMTest_NeedleInAHaystack 7b90d28, needlehaystack/{run,llm_needle_haystack_tester}.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness.errors import RequestError, unknown
from harness.types import Example, Metric, Output, Score
from tasks import scoring
from tasks.base import Tokenizer, check_length, sample_id
from tasks.haystack import Haystack, joined_essays
from tasks.ruler.prompts import Prompt
from tasks.tokens import encode, leading_ids
from tasks.weaving import DepthInterval, Depths, depth_grid

_TASK = "san_francisco"
NEEDLE = "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n"
_QUESTION = "What is the best thing to do in San Francisco?"
KEYWORDS = ("eat a sandwich", "Dolores Park", "sunny day")
_BUFFER = 200  # tokens of the length that the context leaves free
_AHEAD = 64  # tokens

_SYSTEM = "You are a helpful AI bot that answers questions for a user. Keep your response short and direct"
_CONTENT = (
    "<context>\n",
    f"\n</context>\n\n{_QUESTION} Don't give information outside the document or repeat your findings",
)
_BEGUN = "Here is the most relevant sentence in the context:"
_BASE = (
    "This is a very long story book: <book> ",
    f" </book>.\n Based on the content of the book, Question: {_QUESTION}\nAnswer:",
)

PromptForm = Literal["anthropic", "base", "chat"]


@dataclass(frozen=True, kw_only=True)
class NeedleGrid:
    """The one task `san_francisco`: the share of the keywords `eat a sandwich`, `Dolores Park`, `sunny day` answered.

    Nothing is drawn: a length and a depth have one prompt, so a preset's n_samples should be the number of depths.

    depths: how many depths the grid has from 0 to 1, whole percents, or a list of fractions; sample i takes the i-th.
    depth_interval: so many depths are spaced evenly, or `sigmoid`, densely towards both ends.
    prompt: `anthropic`, the authors' text with its begun answer; `chat`, the same in the model's own chat template; or
    `base`, for models that go on with a text (FranxYao/Long-Context-Data-Engineering 2b38d52,
    eval/needle/needle_in_haystack.py, without the mark of a chat model at its beginning).

    Differs: the essays in the order of their names; a model as judge is replaced by the keywords; a period is known in
    the form it has behind a word, too, which tokenizers that mark spaces write otherwise than a period alone.
    """

    version: ClassVar[int] = 1
    outside_budget: ClassVar[Mapping[str, str]] = {
        _TASK: f"the protocol keeps {_BUFFER} tokens free for question and answer, whether or not they are needed; the "
        "true length is each sample's n_tokens, at most the length"
    }

    depths: int | tuple[float, ...] = 35
    depth_interval: DepthInterval = "linear"
    prompt: PromptForm = "anthropic"
    max_new_tokens: int = 50

    def __post_init__(self) -> None:
        published_depths(self.depths, self.depth_interval)
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens = {self.max_new_tokens}: it should be at least 1")

    def metric(self, task: str) -> Metric:
        """The share of the keywords."""
        return Metric(name="keyword_recall", kind="graded")

    def tasks(self) -> tuple[str, ...]:
        """The one there is."""
        return (_TASK,)

    def check(self, task: str) -> None:
        """Raises RequestError for an unknown task, or without the essays."""
        if task != _TASK:
            raise unknown("needle-sf task", task, [_TASK])
        joined_essays()

    def artifacts(self, task: str) -> Mapping[str, str]:
        """The hash of the essays."""
        return {"haystack": joined_essays().sha256}

    def n_available(self, task: str) -> int:
        """A sample a depth."""
        return len(published_depths(self.depths, self.depth_interval))

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """What is kept free, the needle, and one token of the essays."""
        return _BUFFER + len(encode(tokenizer, NEEDLE)) + 1

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` depths of the grid. Raises RequestError where question and answer exceed what is kept free."""
        self.check(task)
        check_length("needle-sf", task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        frame = _Frame.of(self.prompt, tokenizer)
        self._check_buffer(len(frame.ids("")))
        depths = published_depths(self.depths, self.depth_interval)
        contexts = Contexts.of(joined_essays(), tokenizer, seq_len)
        for index in range(n):
            depth = depths[index % len(depths)]
            context, at = contexts.with_needle(depth)
            ids = frame.ids(context)
            yield Example(
                id=sample_id(task, seq_len=seq_len, index=index, seed=seed),
                prompt_ids=ids,
                max_new_tokens=self.max_new_tokens,
                answers=KEYWORDS,
                metadata={
                    "depth_fraction": depth,
                    "haystack": "essay",
                    "needle_positions": [round((frame.n_head + at) / len(ids), 4)],
                    "n_prompt_tokens": len(ids),
                },
            )

    def score(self, task: str, example: Example, output: Output) -> Score:
        """The share of the keywords in the text."""
        return Score(value=scoring.string_match_all(output.text, example.answers))

    def settled(self, task: str, example: Example, text: str) -> bool:
        """All keywords are there."""
        return scoring.holds_all(text, example.answers)

    def _check_buffer(self, n_frame: int) -> None:
        if n_frame + self.max_new_tokens > _BUFFER:
            raise RequestError(
                f"needle-sf: max_new_tokens = {self.max_new_tokens}, and the question has {n_frame} tokens: together "
                f"they should be at most {_BUFFER}, what the protocol keeps free"
            )


def published_depths(depths: Depths, interval: DepthInterval) -> tuple[float, ...]:
    """The authors' depths as fractions: `depth_grid`'s, evenly spaced ones as whole percents. Raises ValueError."""
    if isinstance(depths, int) and depths > 1 and interval == "linear":
        return tuple(round(i * (100 / (depths - 1))) / 100 for i in range(depths))
    return depth_grid(depths, interval)


@dataclass(frozen=True)
class Contexts:
    """The essays of one length, and where needles go in them."""

    tokenizer: Tokenizer
    essay: list[int]
    needle: list[int]
    periods: frozenset[int]

    @classmethod
    def of(cls, essays: Haystack, tokenizer: Tokenizer, seq_len: int) -> "Contexts":
        """The first tokens of the essays, read round and round; `seq_len` is the authors' context length."""
        needle = encode(tokenizer, NEEDLE)
        essay = encode(tokenizer, _decoded(tokenizer, _first_tokens(essays, tokenizer, seq_len)))
        periods = frozenset([*encode(tokenizer, "."), encode(tokenizer, "a.")[-1]])
        return cls(tokenizer, essay[: seq_len - _BUFFER - len(needle)], needle, periods)

    def with_needle(self, depth: float) -> tuple[str, int]:
        """The essays with the needle behind the last period before a depth, and how many tokens stand before it.

        Source: as above, insert_needle.
        """
        at = len(self.essay)
        if depth < 1:
            at = int(at * depth)
            while at and self.essay[at - 1] not in self.periods:
                at -= 1
        return _decoded(self.tokenizer, [*self.essay[:at], *self.needle, *self.essay[at:]]), at


def _first_tokens(essays: Haystack, tokenizer: Tokenizer, n_tokens: int) -> list[int]:
    """Tokens of a text that goes on behind them, as the last ones depend on what follows."""
    n_chars = 4 * n_tokens
    while True:
        ids = encode(tokenizer, essays.read(0, n_chars))
        if len(ids) >= n_tokens + _AHEAD:
            return ids[:n_tokens]
        n_chars = int(1.1 * n_chars * (n_tokens + _AHEAD) / len(ids)) + _AHEAD


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text


@dataclass(frozen=True)
class _Frame:
    """What stands around a context: `anthropic` and `base` are plain text, `chat` has the template's special tokens."""

    tokenizer: Tokenizer
    leading: list[int]
    head: str
    tail: str
    has_special: bool

    @classmethod
    def of(cls, form: PromptForm, tokenizer: Tokenizer) -> "_Frame":
        """Raises RequestError for `chat` without a chat template."""
        if form == "base":
            return cls(tokenizer, leading_ids(tokenizer), *_BASE, False)
        head, tail = _CONTENT
        if form == "anthropic":
            tail += f"\n\nAssistant: {_BEGUN}"
            return cls(tokenizer, leading_ids(tokenizer), f"{_SYSTEM}\n\nHuman: {head}", tail, False)
        turn = Prompt.of(tokenizer, "chat")
        return cls(tokenizer, [], f"{turn.head}{_SYSTEM}\n\n{head}", f"{tail}{turn.tail}{_BEGUN}", True)

    @property
    def n_head(self) -> int:
        """Tokens before the context."""
        return len(self._encoded(self.head))

    def ids(self, context: str) -> list[int]:
        """The whole prompt."""
        return self._encoded(self.head + context + self.tail)

    def _encoded(self, text: str) -> list[int]:
        if not self.has_special:
            return [*self.leading, *encode(self.tokenizer, text)]
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids
