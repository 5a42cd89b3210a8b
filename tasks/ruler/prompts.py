"""A sample as the tokens a model reads: bare, or in the model's own chat template."""

from dataclasses import dataclass
from typing import Literal

from harness.errors import RequestError
from tasks.base import Tokenizer
from tasks.ruler.sample import Sample
from tasks.tokens import encode, leading_ids

PromptKind = Literal["base", "chat"]

_MARK = "RULERUSERTEXT"  # stands for the user's text while the chat template is read


@dataclass(frozen=True)
class Prompt:
    """How a user's text becomes token ids: what stands before and behind it.

    Source: NVIDIA/RULER c3f5e3b, scripts/data/{prepare,template}.py.
    As there, cwe's solved example is a turn of its own, with all that the template puts around a turn.
    Differs: the model's own chat template, not one of a list; a singular question does not reword it.
    """

    tokenizer: Tokenizer
    kind: PromptKind
    leading: tuple[int, ...]
    head: str
    tail: str

    @classmethod
    def of(cls, tokenizer: Tokenizer, kind: PromptKind) -> "Prompt":
        """Reads the tokenizer. Raises RequestError for `chat` without a chat template."""
        if kind == "base":
            return cls(tokenizer, kind, tuple(leading_ids(tokenizer)), "", "")
        head, tail = _chat_template(tokenizer)
        return cls(tokenizer, kind, (), head, tail)

    def ids(self, sample: Sample) -> list[int]:
        """All tokens of the prompt, special tokens included."""
        text = sample.text(self.turn)
        if self.kind == "base":
            return [*self.leading, *encode(self.tokenizer, text)]
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )["input_ids"]
        return ids

    def turn(self, content: str) -> str:
        """A user's text with the template around it."""
        return self.head + content + self.tail


def _chat_template(tokenizer: Tokenizer) -> tuple[str, str]:
    """What the model's template puts before a user's text, and behind it up to the assistant's answer."""
    if getattr(tokenizer, "chat_template", None) is None:
        raise RequestError(
            "prompt = 'chat': the model's tokenizer has no chat template; it should be prompt = 'base', "
            "or a model with a chat template"
        )
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program of the model's authors
        raise RequestError(f"prompt = 'chat': the model's chat template fails: {error}") from error
    head, mark, tail = text.partition(_MARK)
    if not mark:
        raise RequestError("prompt = 'chat': the model's chat template leaves the user's text out")
    return head, tail
