"""ROUGE-L of whole summaries, as the Python package `rouge` 1.0.1 computes it.

It is not the measure of the package `rouge_score`: sentences end at every full stop, words count once, and the common
subsequences of all pairs of sentences are united.
"""

_EPSILON = 1e-8  # in the denominator of F, so that a perfect summary scores 1 - 5e-9

# The package follows each common subsequence by recursion, and LongBench scores what Python cannot follow as 0:
# a path of more cells than this, in CPython with its default limit of 1000 frames, called from LongBench's eval.py.
LONGEST_PATH = 991


def rouge_l(prediction: str, reference: str, *, longest_path: int = LONGEST_PATH) -> float:
    """F of the longest common subsequences, in [0, 1); 0 where either text has no sentence.

    longest_path: the most cells a path through the table of two sentences may have; 0 is scored beyond.

    Source: PyPI rouge 1.0.1, rouge_score.py, rouge_l_summary_level; THUDM/LongBench 2e00731, LongBench/metrics.py.
    """
    hypotheses, references = _sentences(prediction), _sentences(reference)
    if not hypotheses or not references:
        return 0.0
    common: set[str] = set()
    for one in references:
        for other in hypotheses:
            words = _common_words(one, other, longest_path)
            if words is None:
                return 0.0
            common |= words
    recall = len(common) / len({word for sentence in references for word in sentence})
    precision = len(common) / len({word for sentence in hypotheses for word in sentence})
    return 2.0 * ((precision * recall) / (precision + recall + _EPSILON))


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence; one of blanks only has the empty word."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_words(x: list[str], y: list[str], longest_path: int) -> set[str] | None:
    """The words of a longest common subsequence; None when the path to it is too long."""
    lengths = [[0] * (len(y) + 1)]
    for word in x:
        above, row = lengths[-1], [0]
        for j, other in enumerate(y):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        lengths.append(row)
    words = set()
    i, j, n_cells = len(x), len(y), 1
    while i and j:
        if x[i - 1] == y[j - 1]:
            words.add(x[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
        n_cells += 1
    return words if n_cells <= longest_path else None
