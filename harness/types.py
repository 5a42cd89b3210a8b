"""The values that everything passes around: what is asked, what came back, and what names a result.

Standard library only. Lengths are in tokens, times in seconds (`_s`), sizes in bytes (`_bytes`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

JSON = Any  # None, bool, int, float, str, or lists and string-keyed mappings of them

Status = Literal["ok", "truncated", "oom", "timeout", "error"]
STATUSES: tuple[Status, ...] = ("ok", "truncated", "oom", "timeout", "error")

MetricKind = Literal["binary", "graded", "likelihood"]
Regime = Literal["original", "rescaled"]
# Why a generation ended: an end-of-sequence token, the budget, a stop text, or a score that nothing could change.
Stopped = Literal["eos", "length", "stop", "settled"]


def canonical_json(value: JSON) -> str:
    """One text for equal values: sorted keys, no spaces, no NaN. Raises ValueError on NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: JSON | bytes) -> str:
    """sha256 in hex of bytes, or of the canonical JSON of anything else."""
    data = value if isinstance(value, bytes) else canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The identity of a result: one model, method, suite, task and length.

    Every field can move a number and enters `key`, except the two labels, the names shown in tables.
    Settings that are paths are left out of the params; the hashes of what they hold stand in `artifacts`.
    """

    model: str
    model_params: Mapping[str, JSON]
    method: str
    method_params: Mapping[str, JSON]
    suite: str
    suite_params: Mapping[str, JSON]
    task: str
    seq_len: int  # prompt + new tokens
    n_samples: int
    seed: int
    dtype: str
    attention: str
    versions: tuple[int, int]  # of the method, of the suite: raised when their numbers change
    artifacts: Mapping[str, str]  # name -> sha256 of weights, tokenizer, haystack, factors
    method_label: str = field(compare=False)
    suite_label: str = field(compare=False)

    @cached_property
    def key(self) -> str:
        """sha256 in hex of the canonical JSON of the identity."""
        identity = asdict(self)
        del identity["method_label"], identity["suite_label"]
        return content_hash(identity)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Token ids read in one forward pass; those after the first `n_context` (at least 1) are scored."""

    token_ids: Sequence[int]
    n_context: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question. Either a generation (`prompt_ids`, `max_new_tokens`) or a scoring (`segments`).

    Token ids hold everything the model reads, a BOS included where the tokenizer adds one.
    """

    id: str
    prompt_ids: Sequence[int] = ()
    max_new_tokens: int = 0
    stop: tuple[str, ...] = ()  # generation ends before the first of these
    segments: tuple[Segment, ...] = ()
    answers: tuple[str, ...] = ()
    metadata: Mapping[str, JSON] = field(default_factory=dict)  # depth_fraction, ...

    @property
    def n_tokens(self) -> int:
        """The longest context the request needs: prompt + new tokens, or its longest segment.

        The RoPE regime is decided on this number, once for the request.
        """
        if self.segments:
            return max(len(segment.token_ids) for segment in self.segments)
        return len(self.prompt_ids) + self.max_new_tokens


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a model gave back: the generated text, or per segment a log-probability a scored token."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[tuple[float, ...], ...] = ()  # natural log, a row a segment
    greedy: tuple[tuple[bool, ...], ...] = ()  # the token was the most probable one
    stopped: Stopped | None = None
    regime: Regime | None = None  # of the last token, where it was not decided for the whole request
    attention: str = ""  # the backends that ran, joined by +
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """A fraction in [0, 1], and what else was measured on the way (nll, n_scored_tokens, ...)."""

    value: float
    measures: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a suite's score is.

    kind: `binary` (0 or 1), `graded` (anything in [0, 1]), or `likelihood` (exp of minus the mean negative
    log-likelihood of a token, so 1 / perplexity; its records carry the measures `nll` (sum, nats) and
    `n_scored_tokens`, and a mean is taken over tokens).
    chance: the score of blind guessing.
    """

    name: str
    kind: MetricKind
    chance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of `records.jsonl`: what became of one example. `score` is None unless `status` is ok."""

    cell_key: str
    example_id: str
    status: Status
    output: str = ""
    score: float | None = None
    error: str | None = None
    regime: Regime | None = None  # which RoPE the request was answered under
    n_prompt_tokens: int = 0
    n_new_tokens: int = 0
    scored: Sequence[tuple[float, bool]] = ()  # a segment: its log-probability (nats), all of it the most probable
    stopped: Stopped | None = None  # `settled`: the output is shorter than the model would have written
    attention: str = ""  # the backends that ran, joined by +
    prefill_s: float = 0.0
    decode_s: float = 0.0
    peak_memory_bytes: int = 0
    answers: tuple[str, ...] = ()
    measures: Mapping[str, JSON] = field(default_factory=dict)
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    excerpt: Mapping[str, str] = field(default_factory=dict)  # head, needle and tail of the prompt


@dataclass(frozen=True, kw_only=True)
class RunData:
    """A run as a report reads it: its manifest, and the records of each cell key (none for a missing cell)."""

    manifest: Mapping[str, JSON]
    records: Mapping[str, Sequence[Record]]
