"""The same draws give the same text as the authors' scripts; metrics give the authors' numbers. See make_golden.py."""

import json

import pytest

from tasks.ruler import qa, qa_data
from tasks.ruler.essays import EssaySentences
from tasks.ruler.niah import NiahBuilder
from tasks.ruler.sample import authors_shuffle
from tasks.ruler.spec import TASKS
from tasks.ruler.suite import RulerNvidia
from tasks.ruler.variable_tracking import ChainBuilder, ShotPlan
from tasks.ruler.word_counts import CommonWordsBuilder, FrequentWordsBuilder
from tasks.ruler.words import KeyWords, ListWords
from tests.tasks.ruler import cases
from tests.tasks.ruler.make_golden import GOLDEN, digest


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(GOLDEN.read_text())


def _digest(sample) -> list[str]:
    return digest(sample.text(lambda content: content), sample.answers)


@pytest.mark.parametrize("task", cases.NIAH_CASES)
def test_needles_are_the_authors(golden, task):
    builder = NiahBuilder(
        task=TASKS[task],
        shuffle=authors_shuffle,
        words=KeyWords.load(),
        essays=EssaySentences(cases.PROSE) if TASKS[task].haystack == "essay" else None,
    )
    rng = cases.AuthorsDraws()
    found = [_digest(builder.build(rng, size, n_drawn=size)) for size in cases.NIAH_CASES[task]]
    assert found == golden["niah"][task]


def test_variable_tracking_is_the_authors(golden):
    plan = ShotPlan(cases.SHOT_LINES, tuple(golden["vt"]["shot_places"]))
    builder = ChainBuilder(task=TASKS["vt"], shot=plan)
    rng = cases.AuthorsDraws(values_from_numpy=True)
    found = [_digest(builder.build(rng, size, n_drawn=size)) for size in cases.CHAIN_SIZES]
    assert found == golden["vt"]["samples"]


@pytest.mark.parametrize("i", range(len(cases.COMMON_WORDS_CASES)))
def test_common_words_are_the_authors(golden, i):
    seq_len, size = cases.COMMON_WORDS_CASES[i]
    builder = CommonWordsBuilder(
        task=TASKS["cwe"], shuffle=authors_shuffle, words=ListWords.load(), seq_len=seq_len, with_shot=True
    )
    assert _digest(builder.build(cases.AuthorsDraws(), size, n_drawn=size)) == golden["cwe"][i]


@pytest.mark.parametrize("i", range(len(cases.FREQUENT_WORDS_CASES)))
def test_frequent_words_are_the_authors(golden, i):
    seq_len, size = cases.FREQUENT_WORDS_CASES[i]
    builder = FrequentWordsBuilder(task=TASKS["fwe"], shuffle=authors_shuffle, seq_len=seq_len)
    assert _digest(builder.build(cases.AuthorsDraws(), size, n_drawn=size)) == golden["fwe"][i]


@pytest.mark.parametrize(
    ("task", "file", "rows", "wanted"),
    [
        ("qa_1", "dev-v2.0.json", cases.squad(), cases.QA_CASES),
        ("qa_2", "hotpot.json", cases.hotpot(), cases.HOTPOT_CASES),
    ],
)
def test_documents_and_questions_are_the_authors(golden, tmp_path, task, file, rows, wanted):
    (tmp_path / file).write_text(json.dumps(rows))
    data = qa_data.load(TASKS[task].data, str(tmp_path))
    rng = cases.AuthorsDraws()
    found = []
    for index, n in wanted:
        question = data.questions[index]
        chosen = list(range(len(data.documents))) * 3
        if n < len(data.documents):
            n_distractors = n - len(question.own)
            n_others = n_distractors - len(question.more)
            drawn = qa.draw_distractors(
                rng,
                question,
                len(data.documents),
                n_more=None if n_others > 0 else n_distractors,
                n_others=max(n_others, 0),
            )
            chosen = [*question.own, *drawn.more, *drawn.others]
        chosen = chosen[:n]
        authors_shuffle(rng, chosen)
        sample = qa.question_sample(question, [data.documents[i] for i in chosen])
        found.append(_digest(sample)[0])
        assert set(sample.answers) == set(question.answers)
    assert found == [text for text, _ in golden[task]]


def test_scores_are_the_authors(golden):
    from harness.types import Example, Output

    suite, wanted = RulerNvidia(), golden["metrics"]
    assert len(wanted) > 200
    for (text, references), scores in zip(cases.predictions(), wanted, strict=True):
        example = Example(id="x", answers=tuple(references))
        found = [suite.score(task, example, Output(text=text)).value for task in ("niah_multivalue", "qa_1")]
        assert [round(100 * value, 2) for value in found] == scores, (text, references)
    assert {score for scores in wanted for score in scores} >= {0.0, 50.0, 100.0}
