"""Inputs for the authors' code and for ours."""

import json
import random
import string
import uuid

from tasks.key_value import Pair

SENTENCES = [f"Sentence {i} of the {word} text is here." for i in range(40) for word in ("first", "second", "third")]
# name -> the files of a haystack, by name
HAYSTACKS = {
    "sentences": {"b.txt": " ".join(SENTENCES[60:]) + "\n", "a.txt": "July 2010\n" + " ".join(SENTENCES[:60])},
    "short": {"a.txt": "It was dark. Nobody came! Did they?\r\n3.5 hours went by.", "b.txt": "The end"},
    "no_period": {"a.txt": "words without an end " * 30},
    "odd": {"a.txt": ".", "b.txt": "...Dots.first \u201cquoted.\u201d 中文 caf\u00e9. " * 12},
}
LENGTHS = (250, 333, 900)
GRIDS = [(n, interval) for interval in ("linear", "sigmoid") for n in (2, 3, 7, 9, 10, 35, 41, 100)]
CONTEXT_GRIDS = [(6, "linear"), (7, "sigmoid")]

# how many pairs, which of them is asked for
KEY_VALUE_PROMPTS = [(2, 0), (2, 1), (5, 2), (75, 0), (75, 37), (75, 74)]


def pairs(n: int) -> list[Pair]:
    """As many pairs, always the same."""
    rng = random.Random(n)
    return [Pair(*(str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(2))) for _ in range(n)]


def answers() -> list[tuple[str, str]]:
    """A value, and what a model may have said: right, nearly right, and nothing like it."""
    rng = random.Random(0)
    found = []
    for pair in pairs(24):
        other = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        noise = "".join(rng.choices(string.printable + "\x00\x07\u00e9中", k=30))
        found += [
            (pair.value, said)
            for said in (
                pair.value,
                f' "{pair.value}"\n\nKey: "{other}"',
                pair.value.upper(),
                f"{noise}{pair.value}{noise}",
                f"x{pair.value}x",
                f"{other}\x00{pair.value}\x00",
                pair.value[:-1],
                pair.value[1:],
                pair.value.replace("-", ""),
                pair.value.replace("-", " - "),
                pair.value[:18] + "\n" + pair.value[18:],
                other,
                pair.key,
                noise,
                "",
            )
        ]
    return found


def responses() -> str:
    """The answers as the authors' evaluation reads them: JSON a line."""
    return "".join(json.dumps({"value": value, "model_answer": said}) + "\n" for value, said in answers())
