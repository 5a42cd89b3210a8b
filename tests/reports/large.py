"""A run as large as a leaderboard's, that never ran: many methods, RULER, needles, LongBench and short tasks."""

import random

from harness.types import Record, RunData, content_hash
from tests.reports.synthetic import run_data

LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
TASKS = {
    "ruler": (
        *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
        *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"),
    ),
    "needle": ("keys1_noise", "keys4_noise", "keys1_docs", "keys4_docs"),
    "longbench": tuple(f"longbench_{i}" for i in range(16)),
    "short": ("mmlu", "mmlu_pro", "hellaswag", "truthfulqa_mc2", "gsm8k", "arc_challenge", "winogrande"),
}
_GRADED = {"niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", *TASKS["longbench"]}
_EXCERPT = {"head": "A special magic number " * 6, "needle": "One of the special " * 14, "tail": "What is the " * 13}


def large(n_methods: int = 200, n_lengths: int = 6, n_tasks: int = 40, n_samples: int = 10) -> RunData:
    """A complete run of this many methods, lengths, tasks and samples a cell."""
    tasks = [(suite, task) for suite, names in TASKS.items() for task in names][:n_tasks]
    methods = ["vanilla", *(f"method_{i:03d}" for i in range(1, n_methods))]
    cells = [
        {
            "key": content_hash([method, suite, task, seq_len]),
            "model": "llama3-8b",
            "method": method,
            "method_name": method,
            "suite": suite,
            "task": task,
            "seq_len": seq_len,
            "n_samples": n_samples,
            "seed": 0,
            "dtype": "bfloat16",
            "attention": "sdpa",
        }
        for method in methods
        for suite, task in tasks
        for seq_len in LENGTHS[:n_lengths]
    ]
    metrics: dict = {}
    for suite, task in tasks:
        kind = "graded" if task in _GRADED else "binary"
        metrics.setdefault(suite, {})[task] = {"name": "m", "kind": kind, "chance": 0.25 * (suite == "short")}
    draws = random.Random(0)

    def answer(cell, index):
        reach = 1 - 0.004 * methods.index(cell["method"]) * cell["seq_len"] / 131072
        chance = min(0.98, max(0.05, reach - 0.1 * (cell["seq_len"] > 8192)))
        right = round(4 * chance * draws.random()) / 4 if cell["task"] in _GRADED else float(draws.random() < chance)
        return Record(
            cell_key=cell["key"],
            example_id=f"{index:04d}",
            status="ok",
            score=right,
            output="the number is 12345",
            answers=("12345",),
            regime="rescaled",
            prefill_s=0.5,
            metadata={"depth_fraction": index / max(1, n_samples - 1)} if cell["suite"] == "needle" else {},
            excerpt=_EXCERPT,
        )

    suites = {suite: {"name": suite, "version": 1, "params": {}} for suite in metrics}
    return run_data(cells, answer, metrics=metrics, suites=suites, title="Large")
