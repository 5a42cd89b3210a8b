"""Predictions and gold answers of ours, odd ones included, that the authors' metrics were run on."""

import random

ENGLISH = (
    "The treaty was signed in Vienna on 9 June 1815, nine days before the battle.",
    "Marie Curie; she shared the prize with Pierre Curie and Henri Becquerel.",
    "an ounce of prevention is worth a pound of cure. The committee did not agree. It met again in May.",
    "unanswerable",
    "Yes",
    "U.S. Navy",
    "3.14 percent of the total, i.e. about $2.5 million",
    "The GAO recommended four actions. The agency agreed with three. It did not agree with the fourth.",
    "Amanda baked cookies and will bring Jerry some tomorrow.",
    "O'Neill-Smith's \"long\" walk (part one)",
    "Łódź, São Paulo and Zürich",
    "the a an",
)
CHINESE = (
    "会议讨论了明年的预算，决定增加研发投入。",
    "北京大学位于海淀区，创办于一八九八年。",
    "他来到了网易杭研大厦",
    "小明硕士毕业于中国科学院计算所，后在日本京都大学深造。",
    "第三季度营收增长了12.5%，净利润为3.2亿元。",
    "不知道",
    "是的。",
    "GPT-4模型在2023年3月14日发布",
    "患者应当每日服药两次，饭后半小时服用；如有不适请及时就医！",
    "《红楼梦》的作者是曹雪芹、高鹗",
)
CODE = (
    "        return self._cache.get(key, default)",
    "for (int i = 0; i < n; i++) {",
    "    x = [f(a) for a in items if a is not None]",
    "import os",
    '    raise ValueError("no such file: %s" % path)',
    "}",
    "    # the next line is a comment",
    'string url = "http://example.org/a/b";',
    "def __init__(self, parent=None, name='', flags=0, size=(640, 480), position=(0, 0), *args, **kwargs):"
    "  super().__init__(parent, name, flags, size, position, *args, **kwargs); self.ready = False; self.pending = []"
    "  if not self.ready: self.prepare(); self.pending.append((parent, name, flags, size, position))",
)
CLASSES = (
    "Date", "Other entity", "Other number", "Number", "Order, rank", "Rank", "City", "State", "Country",
    "Other location", "Entity", "Individual", "Title of a person", "Title", "person", "Other",
    "体育", "体育新闻", "新闻", "国际新闻",
)  # fmt: skip
ODD = (
    "", " ", "\n", "\n\n", ".", "...", " . ", "\x00", "a\x07b\x1fc", "\t",
    "12345678", "\u3000", "，。", "the", "é", "👍🏽",
)  # fmt: skip
EVAL_TEXTS = {
    "qasper": ENGLISH,
    "triviaqa": ENGLISH,
    "samsum": ENGLISH,
    "trec": CLASSES,
    "lsht": CLASSES,
    "vcsum": CHINESE,
}


def mutated(rng: random.Random, text: str, others: tuple[str, ...]) -> str:
    """A text as a model might give it back."""
    words = text.split(" ") if " " in text else list(text)
    glue = " " if " " in text else ""
    kind = rng.randrange(12)
    if kind == 0:
        rng.shuffle(words)
    elif kind == 1:
        words = [word for word in words if rng.random() < 0.6]
    elif kind == 2:
        words = words + rng.choice(others).split(" ")
    elif kind == 3:
        return "\n" * rng.randrange(4) + text + "\n" + rng.choice(others)
    elif kind == 4:
        return text.upper()
    elif kind == 5:
        words = [word for word in words for _ in range(rng.randrange(1, 4))]
    elif kind == 6:
        return rng.choice(ODD) + text + rng.choice(ODD)
    elif kind == 7:
        return ". ".join(rng.sample(others, 2)) + "." + text
    elif kind == 8:
        at = rng.randrange(len(text) + 1)
        return text[:at] + rng.choice(ODD) + text[at:]
    elif kind == 9:
        return rng.choice(others)
    elif kind == 10:
        return f"Answer: {text} Question: {rng.choice(others)}"
    return glue.join(words)


def text_cases(rng: random.Random, texts: tuple[str, ...], n: int) -> list[list[str]]:
    cases = [[text, text] for text in texts]
    cases += [[odd, text] for odd in ODD for text in (texts[0], odd)]
    cases += [["w. " * 3, "w"], ["a b c d e f", "f e d c b a"], [texts[2] * 6, texts[2]]]
    while len(cases) < n:
        answer = rng.choice(texts)
        cases.append([mutated(rng, answer, texts), answer])
    return cases


def number_cases(rng: random.Random, n: int) -> list[list[str]]:
    odd = [
        "",
        " ",
        "no",
        "\x0012\x00",
        "１２",
        "٣",
        "1.2",
        "-7",
        "07",
        "1e3",
        "Paragraph",
        "Paragraph 3.",
        "段落3",
        "3\n3\n4",
    ]
    cases = [[text, answer] for text in odd for answer in ("3", "12", "7")]
    while len(cases) < n:
        answer = str(rng.choice([1, 3, 7, 12, 29, 30]))
        others = [
            str(rng.choice([answer, answer + "0", "1" + answer, rng.randrange(31)])) for _ in range(rng.randrange(1, 5))
        ]
        form = rng.choice(["{}", "Paragraph {}", "段落{}", "There are {} of them", "({})", "{}th", "第{}段。"])
        cases.append([rng.choice([" ", "\n", ", ", ""]).join(form.format(other) for other in others), answer])
    return cases


def class_cases(rng: random.Random, n: int) -> list[list[str]]:
    cases = [[name, name] for name in CLASSES] + [[odd, "Other number"] for odd in ODD]
    while len(cases) < n:
        answer = rng.choice(CLASSES)
        picked = [answer] * rng.randrange(2) + rng.sample(CLASSES, rng.randrange(4))
        rng.shuffle(picked)
        cases.append([rng.choice(["\n", ", ", " Type: ", ""]).join(picked), answer])
    return cases


def code_cases(rng: random.Random, n: int) -> list[list[str]]:
    cases = text_cases(rng, CODE, n // 2)
    first = ["# a comment", "```python", "// note", "/* note */", "", "    ", "x = 1  # why", "`x`", '"""doc"""']
    while len(cases) < n:
        answer = rng.choice(CODE)
        lines = [*rng.sample(first, rng.randrange(4)), mutated(rng, answer, CODE), *rng.sample(first, 1)]
        cases.append(["\n" * rng.randrange(3) + "\n".join(lines), answer])
    return cases


def response_cases(rng: random.Random, n: int) -> list[str]:
    forms = [
        "The correct answer is ({})",
        "The correct answer is {}",
        "**The correct answer is ({})**",
        "the correct answer is {}",
        "The correct answer is **{}**.",
        "The correct answer is: ({})",
        "({})",
        "{}",
        "The correct answer is ({}",
        "The correct answer is *({})*",
        "The correct  answer is ({})",
        "The correct answer is\n({})",
        "\x00The correct answer is ({})\x1f",
        "The correct answer is (insert {})",
    ]
    cases = [*ODD]
    while len(cases) < n:
        picked = [rng.choice(forms).format(rng.choice("ABCDEabcd")) for _ in range(rng.randrange(1, 4))]
        cases.append(rng.choice(["\n", " ", ". "]).join(picked))
    return cases
