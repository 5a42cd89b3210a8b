import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.scoring import (
    clean,
    first_number_equals,
    likelihood,
    nll_by_position,
    number_match_all,
    string_match_all,
    teacher_forced_match,
)

SURROGATE = "\ud800 1234567 \udfff"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ""), ("  a\x00b\tc \x1f", "a\nb\nc"), ("\x7f", "\x7f"), ("\x00", ""), (SURROGATE, SURROGATE)],
)
def test_clean(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "answers", "substring", "whole"),
    [
        ("", ["1234567"], 0, 0),
        (": 1234567.", ["1234567"], 1, 1),
        ("12345678", ["1234567"], 1, 0),
        ("91234567", ["1234567"], 1, 0),
        ("1234567 and\x007654321", ["1234567", "7654321"], 1, 1),
        ("1,234,567", ["1234567"], 0, 0),
        ("123\x004567", ["1234567"], 0, 0),
        ("a 1 b", ["1", "2", "3", "4"], 0.25, 0.25),
        (SURROGATE, ["1234567"], 1, 1),
        ("١٢٣٤٥٦٧", ["1234567"], 0, 0),
    ],
)
def test_numbers_in_a_text(text, answers, substring, whole):
    assert string_match_all(text, answers) == substring
    assert number_match_all(text, answers) == whole


def test_matching_is_whatever_the_case():
    assert string_match_all("PARIS", ["Paris"]) == 1


@pytest.mark.parametrize("score", [string_match_all, number_match_all])
def test_no_answers_is_an_error(score):
    with pytest.raises(ValueError, match="at least one answer"):
        score("text", [])


@pytest.mark.parametrize(
    ("text", "number", "score"),
    [
        ("", 5, 0),
        ("5", 5, 1),
        ("55", 5, 0),
        ("is 5, not 6", 5, 1),
        ("6 or 5", 5, 0),
        ("0", 0, 1),
        ("٥ 5", 5, 1),
        ("9" * 10_000, 9, 0),
        ("\x005\ud800", 5, 1),
    ],
)
def test_first_number(text, number, score):
    assert first_number_equals(text, number) == score


def test_teacher_forcing_needs_every_token():
    assert teacher_forced_match([[-1.0], [-2.0]], [[True], [True]]).value == 1
    assert teacher_forced_match([[-1.0], [-2.0]], [[True], [False]]).value == 0
    assert teacher_forced_match([], []).value == 0
    assert teacher_forced_match([[]], [[]]).measures == {"nll": 0, "n_scored_tokens": 0}


def test_likelihood_of_odd_rows():
    assert likelihood([]).value == 0
    assert likelihood([[0.0, 0.0], [0.0]]).value == 1
    assert likelihood([[1e-7]]).value == 1
    assert likelihood([[-math.inf] + [0.0] * 100_000]).value == 0
    json.dumps(dict(likelihood([[-math.inf] * 1000]).measures), allow_nan=False)
    with pytest.raises(ValueError, match="NaN"):
        likelihood([[0.0, math.nan]])


@given(st.lists(st.lists(st.floats(-50, 0), max_size=40), max_size=4), st.integers(1, 100))
def test_likelihood_and_buckets_agree(rows, first):
    score = likelihood(rows)
    buckets = nll_by_position(rows, [first] * len(rows))
    flat = [x for row in rows for x in row]
    assert 0 <= score.value <= 1
    assert sum(n for *_, n in buckets) == score.measures["n_scored_tokens"] == len(flat)
    assert sum(nll for _, _, nll, _ in buckets) == pytest.approx(score.measures["nll"], abs=1e-6)
    if flat:
        assert score.value == pytest.approx(math.exp(sum(flat) / len(flat)))
