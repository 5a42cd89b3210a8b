"""The real rows that prompts are compared on, and how token ids are compared without storing them."""

import copy
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.types import content_hash

# Stands for the authors' wrapper of Llama-2 chat, LongBench/pred.py, build_chat.
CHAT_TEMPLATE = "[INST]{{ messages[0]['content'] }}[/INST]"
N_ROWS = 2


class PromptCase(NamedTuple):
    """How prompts are rendered. max_length: tokens of the text before the chat template, as the authors set it."""

    tokenizer: str
    prompt: Literal["base", "chat"]
    seq_len: int
    max_length: int

    @property
    def name(self) -> str:
        return f"{self.tokenizer} {self.prompt} {self.max_length}"


PROMPT_CASES = (
    PromptCase("tiny-llama", "base", 4096, 3500),
    PromptCase("tiny-llama", "chat", 32768, 31500),
    PromptCase("smollm2-135m", "chat", 4096, 3500),
)
V2_PROMPT_CASES = (PromptCase("tiny-llama", "base", 8192, 7500), PromptCase("tiny-llama", "base", 131072, 120000))


def with_chat(tokenizer: Any, template: str = CHAT_TEMPLATE) -> Any:
    """A copy of a tokenizer that has a chat template."""
    found = copy.deepcopy(tokenizer)
    found.chat_template = template
    return found


def first_rows(path: Path, n: int = N_ROWS) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line, _ in zip(file, range(n), strict=False)]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def ids_hash(ids: Mapping[str, Sequence[int]]) -> str:
    """Of row name -> token ids."""
    return content_hash({name: list(map(int, found)) for name, found in ids.items()})[:16]


def row_v1(name: str = "a", **changes: Any) -> dict[str, Any]:
    """A row of ours in LongBench's schema."""
    fields = {
        "input": "Which colour has the door?",
        "context": f"Text {name}. The door is green. " + "The rain fell on the hills all day long. " * 40,
        "answers": ["green"],
        "length": 400,
        "dataset": "qasper",
        "language": "en",
        "all_classes": None,
        "_id": name,
    }
    return fields | changes


def row_v2(name: str = "a", **changes: Any) -> dict[str, Any]:
    """A row of ours in LongBench v2's schema."""
    fields = {
        "_id": name,
        "domain": "Single-Document QA",
        "sub_domain": "Literary",
        "difficulty": "easy",
        "length": "short",
        "question": "Which colour has the door? ",
        "choice_A": "red",
        "choice_B": " green",
        "choice_C": "blue",
        "choice_D": "none",
        "answer": "B",
        "context": f"\nText {name}. The door is green. " + "The rain fell on the hills all day long. " * 40,
    }
    return fields | changes
