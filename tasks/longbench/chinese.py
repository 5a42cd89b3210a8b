"""Chinese words, as jieba cuts them."""

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

from harness.errors import RequestError


def check_available() -> None:
    """Raises RequestError where jieba is not installed."""
    if find_spec("jieba") is None:
        raise RequestError(
            "Chinese LongBench answers are cut into words by the package jieba: pip install jieba==0.42.1"
        )


def words(text: str) -> list[str]:
    """The words of a text, blanks and punctuation included: jieba's precise mode with its own dictionary."""
    return list(_jieba().cut(text, cut_all=False))


@cache
def _jieba() -> Any:
    """A tokenizer of our own: the package's shared one takes words that others add, reads a dictionary that lies in
    the temporary folder for anybody to write, and logs."""
    check_available()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's code is old: invalid escapes, pkg_resources
        import jieba
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
