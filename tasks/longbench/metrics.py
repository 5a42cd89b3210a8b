# ruff: noqa: RUF001
"""LongBench's nine metrics: a prediction against one gold answer, a fraction in [0, 1].

Source: THUDM/LongBench 2e00731, LongBench/metrics.py. What is odd there is odd here, and says so.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from tasks.longbench.chinese import words
from tasks.longbench.rouge import LONGEST_PATH, rouge_l

Metric = Callable[[str, str, Sequence[str]], float]

_ZH_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢"
    "｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
PARAGRAPH = {"retrieval": re.compile(r"Paragraph (\d+)"), "retrieval_zh": re.compile(r"段落(\d+)")}


def first_line(text: str) -> str:
    """The first line after leading line breaks: what is scored in trec, triviaqa, samsum and lsht."""
    return text.lstrip("\n").split("\n")[0]


def qa_f1(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """F1 of the words, without case, ASCII punctuation and articles."""
    return _f1(_normalised(prediction).split(), _normalised(answer).split())


def qa_f1_zh(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """F1 of the Chinese words, without case and punctuation."""
    return _f1(_zh_words(prediction), _zh_words(answer))


def rouge(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L."""
    return rouge_l(prediction, answer)


def rouge_zh(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """ROUGE-L of the Chinese words. The Chinese full stop ends no sentence."""
    # one call deeper in LongBench's code, one frame fewer for the path
    return rouge_l(" ".join(words(prediction)), " ".join(words(answer)), longest_path=LONGEST_PATH - 1)


def classification(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """One over the number of classes that stand in the prediction, 0 without the gold one.

    A class that is part of the gold one's name should not count; the list is shortened while it is walked, so one
    right behind a class that was taken out still does.
    """
    found = [name for name in classes if name in prediction]
    for name in found:
        if name in answer and name != answer:
            found.remove(name)
    return 1.0 / len(found) if answer in found else 0.0


def count(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """The share of the prediction's numbers that are the gold one."""
    return _share(prediction, answer)


def retrieval(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """The share of the prediction's numbers that are the gold paragraph's (`Paragraph 3`)."""
    return _share(prediction, PARAGRAPH["retrieval"].findall(answer)[0])


def retrieval_zh(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """The share of the prediction's numbers that are the gold paragraph's (`段落3`)."""
    return _share(prediction, PARAGRAPH["retrieval_zh"].findall(answer)[0])


def code_sim(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Likeness of the first line without a backquote, `#` or `//` to the gold line, in steps of 0.01.

    The likeness is fuzzywuzzy 0.18.0's `fuzz.ratio` without python-Levenshtein, which would give other values.
    A gold line that holds one of the three marks cannot be reached.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next(filter(is_code, lines), "")
    if line == answer:
        return 1.0
    if not line or not answer:
        return 0.0
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100


def is_code(line: str) -> bool:
    """Whether `code_sim` may take a line: it holds neither a backquote nor the begin of a comment."""
    return "`" not in line and "#" not in line and "//" not in line


METRICS: dict[str, Metric] = {
    "qa_f1": qa_f1,
    "qa_f1_zh": qa_f1_zh,
    "rouge": rouge,
    "rouge_zh": rouge_zh,
    "classification": classification,
    "count": count,
    "retrieval": retrieval,
    "retrieval_zh": retrieval_zh,
    "code_sim": code_sim,
}


def _normalised(text: str) -> str:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare)


def _zh_words(text: str) -> list[str]:
    marks = string.punctuation + _ZH_PUNCTUATION
    bare = ["".join("".join(c for c in word.lower() if c not in marks).split()) for word in words(text)]
    return [word for word in bare if word]


def _f1(prediction: list[str], answer: list[str]) -> float:
    n_common = sum((Counter(prediction) & Counter(answer)).values())
    if n_common == 0:
        return 0.0
    precision, recall = n_common / len(prediction), n_common / len(answer)
    return (2 * precision * recall) / (precision + recall)


def _share(prediction: str, number: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(number) / len(numbers) if numbers else 0.0
