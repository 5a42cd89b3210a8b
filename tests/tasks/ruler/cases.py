"""Inputs of the parity tests: texts, questions and predictions, written here, and the draws of the authors' scripts."""

import random

import numpy as np

SEED = 42  # the authors seed `random` and `numpy.random` with it

PROSE = """
    Dr. Ames kept bees behind the mill, e.g. the brown ones that came from Mr. Hale in Sept. of that year. They did not
    sting him! Why would they? "He moves slowly," said the miller. (He said so often.) In the U.S. a hive costs 3.5
    dollars a week; here it costs nothing. The river rose at 4 p.m. and the bees stayed in. What else could they do...
    So the miller, who had read Prof. Lind's book on floods, carried all 12 hives up the hill himself. Nobody helped.
    "You could have asked," his sister told him later. He could have. The hill is steep, but bees weigh little, and the
    rain had stopped by then. Two hives were lost. It was nobody's fault.
"""
PROSE = " ".join(PROSE.split())

NIAH_CASES = {  # task: sizes, all below 3 times the words of PROSE
    "niah_single_1": (30, 77, 5),
    "niah_single_2": (100, 250, 33),
    "niah_single_3": (60, 131),
    "niah_multikey_1": (120, 222, 90),
    "niah_multikey_2": (25, 60, 9),
    "niah_multikey_3": (5, 31),
    "niah_multivalue": (150, 80),
    "niah_multiquery": (99, 301),
}
CHAIN_SIZES = (10, 25, 140)
SHOT_LINES = 9
COMMON_WORDS_CASES = ((4096, 100), (4096, 800), (8192, 37), (2048, 40), (512, 11))  # length, size
FREQUENT_WORDS_CASES = ((4096, 900), (4096, 3000), (512, 120), (32768, 20011))
QA_CASES = ((0, 2), (1, 5), (7, 6), (3, 12), (11, 19), (5, 20), (2, 53))  # question, documents
HOTPOT_CASES = ((0, 10), (1, 12), (2, 30), (3, 45), (0, 90))


class AuthorsDraws(random.Random):
    """The authors' two generators as one: values of variable tracking come from numpy's."""

    def __init__(self, seed: int = SEED, *, values_from_numpy: bool = False) -> None:
        super().__init__(seed)
        self._numpy = np.random.RandomState(seed) if values_from_numpy else None

    def randrange(self, start, stop=None, step=1):
        if self._numpy is not None:
            return int(self._numpy.randint(start, stop))
        return super().randrange(start, stop, step)


def squad() -> dict:
    """Four articles of five paragraphs in SQuAD's schema; one question in three has no answer."""
    articles = []
    for a in range(4):
        paragraphs = []
        for p in range(5):
            qas = [_squad_question(a, p, q) for q in range(2)]
            paragraphs.append(
                {"context": f"Lot {a}{p} was sold by Ruth {p} to Omar {a} for {31 * a + p} crowns.", "qas": qas}
            )
        articles.append({"title": f"Sale {a}", "paragraphs": paragraphs})
    return {"version": "v2.0", "data": articles}


def _squad_question(a: int, p: int, q: int) -> dict:
    unanswerable = (a + p + q) % 3 == 0
    answers = [] if unanswerable else [{"text": text, "answer_start": 0} for text in (f"Omar {a}", "Omar", f"Omar {a}")]
    return {
        "id": f"{a}-{p}-{q}",
        "question": f"Who bought lot {a}{p}, ask {q}?",
        "answers": answers,
        "is_impossible": unanswerable,
    }


def hotpot() -> list:
    """Four questions with ten documents each in HotpotQA's schema."""
    rows = []
    for r in range(4):
        context = [
            [f"Town {r}{d}", [f"Town {r}{d} lies in county {d % 3}.", f" It has {17 * d + r} mills."]]
            for d in range(10)
        ]
        rows.append(
            {
                "_id": str(r),
                "question": f"Which town has {17 * 4 + r} mills?",
                "answer": f"Town {r}4",
                "supporting_facts": [[f"Town {r}4", 1], [f"Town {r}7", 0]],
                "context": context,
            }
        )
    return rows


def predictions() -> list[tuple[str, list[str]]]:
    """Texts a model might give, with references: exact, empty, in capitals, torn, inside longer words and digits."""
    rng = random.Random(7)
    odd = [
        "",
        " \n\t ",
        "\x00\x07",
        "None",
        "12345670",
        "É",
        "Straße",
        "İstanbul",
        "\x1f1234567\x1f",
        "a\x0bb",
        "。1234567。",
    ]
    cases = [
        (text, references) for text in odd for references in (["1234567"], ["a\nb", "é"], ["straße", "istanbul", ""])
    ]
    for _ in range(240):
        references = [
            str(rng.randrange(10**6, 10**7)) if rng.random() < 0.5 else _word(rng) for _ in range(rng.randint(1, 10))
        ]
        said = rng.sample(references, rng.randint(0, len(references)))
        said = [
            rng.choice([str, str.upper, str.title, lambda text: text[:-1], lambda text: f"0{text}9"])(text)
            for text in said
        ]
        joint = rng.choice([", ", "\n", " and ", "\x01", "", "\t1. "])
        cases.append(
            (
                rng.choice(["", " The answer is ", "\n\n"]) + joint.join(said) + rng.choice(["", ".", "\x00", "\n"]),
                references,
            )
        )
    return cases


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefgh", k=rng.randint(2, 7)))
