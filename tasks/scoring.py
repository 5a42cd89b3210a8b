"""Score functions: pure, each with its source."""

import math
import re
from collections.abc import Sequence

from harness.types import JSON, Score

# So low that one impossible token takes the likelihood of a million to 0, and a sum of them is still a JSON number.
_LOWEST_LOGPROB = -1e9


def clean(text: str) -> str:
    """A generated text as RULER compares it: control characters become line breaks, the ends are stripped.

    Source: NVIDIA/RULER c3f5e3b, scripts/eval/evaluate.py, postprocess_pred.
    """
    return re.sub(r"[\x00-\x1f]", "\n", text.strip()).strip()


def string_match_all(text: str, answers: Sequence[str]) -> float:
    """The share of answers that stand in the text, as substrings, whatever their case.

    Source: NVIDIA/RULER c3f5e3b, scripts/eval/synthetic/constants.py, string_match_all. Raises ValueError without
    answers.
    """
    if not answers:
        raise ValueError("string_match_all needs at least one answer")
    cleaned = clean(text).lower()
    return sum(answer.lower() in cleaned for answer in answers) / len(answers)


def holds_all(text: str, answers: Sequence[str]) -> bool:
    """Whether `string_match_all` is 1, and stays so whatever is written behind the text."""
    # Of all letters, only a capital sigma has a lower case that depends on what follows.
    return "\u03a3" not in text and string_match_all(text, answers) == 1.0


def number_match_all(text: str, answers: Sequence[str]) -> float:
    """As `string_match_all`, but a number counts only whole: 1234567 does not stand in 12345678."""
    if not answers:
        raise ValueError("number_match_all needs at least one answer")
    numbers = set(re.findall(r"[0-9]+", text))
    return sum(answer in numbers for answer in answers) / len(answers)


def first_number_equals(text: str, number: int) -> float:
    """1 when the first run of digits is this number.

    Source: microsoft/LongRoPE c9e56aa, evaluation/passkey.py, generate_answer.
    Differs: only the digits 0 to 9 are digits.
    """
    found = re.search(r"[0-9]+", text)
    return float(found is not None and (found.group().lstrip("0") or "0") == str(number))


def teacher_forced_match(logprobs: Sequence[Sequence[float]], greedy: Sequence[Sequence[bool]]) -> Score:
    """1 when every scored token was the most probable one; measures `nll` (sum, nats) and `n_scored_tokens`."""
    tokens = [token for row in greedy for token in row]
    return Score(value=float(bool(tokens) and all(tokens)), measures=_nll(_flat(logprobs)))


def likelihood(logprobs: Sequence[Sequence[float]]) -> Score:
    """exp of the mean log-probability of a token, so 1 / perplexity; 0 where nothing was scored.

    Measures `nll` (sum, nats; a token counts 1e9 at most) and `n_scored_tokens`. Raises ValueError on NaN.
    """
    flat = _flat(logprobs)
    value = math.exp(min(0.0, math.fsum(flat) / len(flat))) if flat else 0.0
    return Score(value=value, measures=_nll(flat))


def nll_by_position(logprobs: Sequence[Sequence[float]], first_positions: Sequence[int]) -> list[list[float]]:
    """Negative log-likelihood by place in the window, in buckets that double: [start, end, sum in nats, tokens].

    first_positions: for each row, where in its window the first scored token stands, counted from 0 (so at least 1).
    Buckets [1, 2), [2, 4), [4, 8), ...; those without tokens are left out.
    """
    buckets: dict[int, list[float]] = {}
    for row, first in zip(logprobs, first_positions, strict=True):
        for position, logprob in enumerate(_flat([row]), start=first):
            buckets.setdefault(position.bit_length() - 1, []).append(-logprob)
    return [[2**b, 2 ** (b + 1), math.fsum(nll), len(nll)] for b, nll in sorted(buckets.items())]


def _flat(logprobs: Sequence[Sequence[float]]) -> list[float]:
    flat = [float(logprob) for row in logprobs for logprob in row]
    if any(math.isnan(logprob) for logprob in flat):
        raise ValueError("a log-probability is NaN")
    return [max(logprob, _LOWEST_LOGPROB) for logprob in flat]


def _nll(flat: Sequence[float]) -> dict[str, JSON]:
    return {"nll": -math.fsum(flat) if flat else 0.0, "n_scored_tokens": len(flat)}
