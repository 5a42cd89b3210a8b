"""Tokenizers, as the suites' tests have them."""

from tests.tasks.conftest import bos_tokenizer, byte_tokenizer, tokenizer  # noqa: F401
