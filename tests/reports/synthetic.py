"""Runs that never ran: manifests and records with known scores, for the tests of the report."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.types import Record, RunData, content_hash

WINDOW = 512
LENGTHS = (256, 512, 1024, 2048)
METRICS = {
    "needle": {
        "keys1": {"name": "exact_match", "kind": "binary", "chance": 0.0},
        "keys4": {"name": "exact_match", "kind": "binary", "chance": 0.0},
    },
    "choices": {"mmlu": {"name": "accuracy", "kind": "binary", "chance": 0.25}},
    "recall": {"variables": {"name": "recall", "kind": "graded", "chance": 0.0}},
    "perplexity": {"docs": {"name": "likelihood", "kind": "likelihood", "chance": 0.0}},
}
METHODS = ("vanilla", "position_interpolation", "yarn", "dynamic_ntk")
REACH = {"vanilla": 512, "position_interpolation": 256, "yarn": 1024, "dynamic_ntk": 512}

Answer = Callable[[Mapping[str, Any], int], Record | None]


def entry(method: str, suite: str, task: str, seq_len: int, n_samples: int, model: str = "tiny") -> dict[str, Any]:
    """A cell of the plan."""
    fields = {"model": model, "method": method, "suite": suite, "task": task, "seq_len": seq_len}
    constants = {"method_name": method, "seed": 0, "dtype": "float32", "attention": "sdpa"}
    return {"key": content_hash(fields), **fields, "n_samples": n_samples, **constants}


def ok(cell: Mapping[str, Any], index: int, score: float, **fields: Any) -> Record:
    """An answered sample."""
    fields = {"regime": "original" if cell["seq_len"] <= WINDOW else "rescaled", "prefill_s": 0.25} | fields
    return Record(cell_key=cell["key"], example_id=f"{index:04d}", status="ok", score=score, **fields)


def failed(cell: Mapping[str, Any], index: int, status: str = "oom", error: str = "out of memory") -> Record:
    """A sample without an answer."""
    return Record(cell_key=cell["key"], example_id=f"{index:04d}", status=status, error=error)  # type: ignore[arg-type]


def run_data(cells: Sequence[dict[str, Any]], answer: Answer, **changes: Any) -> RunData:
    """A run of these cells; `answer` gives each sample's record, or None for one that was not run."""
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    records = {c["key"]: [r for i in range(c["n_samples"]) if (r := answer(c, i)) is not None] for c in cells}
    report = {"base": "vanilla", "threshold": "native", "native_share": 0.9, "margin": 0.985, "confidence": 0.95}
    manifest = {
        "schema": 1,
        "title": "Synthetic",
        "preset": "synthetic",
        "plan": content_hash("plan"),
        "seed": 0,
        "longreach": "0.1.0",
        "models": {model: _rope() for model in dict.fromkeys(cell["model"] for cell in cells)},
        "methods": {
            name: {
                "name": name,
                "params": {},
                "version": 1,
                "source": "arXiv:0000.00000",
                "original_inside_window": True,
            }
            for name in methods
        },
        "suites": {suite: {"name": suite, "version": 1, "params": {}} for suite in METRICS},
        "metrics": METRICS,
        "factors": [_factors(cell["model"], method) for cell in cells[:1] for method in methods],
        "cells": list(cells),
        "report": report | changes.pop("report", {}),
        "environment": {"python": "3.11", "packages": {"torch": "2.13.0"}, "git_revision": None},
    }
    return RunData(manifest=manifest | changes, records={key: found for key, found in records.items() if found})


def rich(n: int = 40, methods: Sequence[str] = METHODS, lengths: Sequence[int] = LENGTHS) -> RunData:
    """Several methods, suites and lengths; out of memory, an error, a cell that never ran, a method like the base."""
    cells = [
        entry(method, suite, task, seq_len, 8 if suite == "perplexity" else n)
        for method in methods
        for suite, tasks in METRICS.items()
        for task in tasks
        for seq_len in lengths
    ]
    return run_data(cells, _rich_answer)


def _rich_answer(cell: Mapping[str, Any], index: int) -> Record | None:
    method, seq_len = cell["method"], cell["seq_len"]
    if method == "position_interpolation" and seq_len == 2048:
        return failed(cell, index) if cell["suite"] == "needle" else None
    if method == "yarn" and cell["task"] == "keys4" and seq_len == 2048 and index % 5 == 0:
        return failed(cell, index, "error", "ValueError: <script>alert(1)</script>")
    inside = method == "dynamic_ntk" and seq_len <= WINDOW  # the base's own computation
    seed = content_hash(["vanilla" if inside else method, cell["suite"], cell["task"], seq_len, index])
    draw = random.Random(seed).random()
    reached = seq_len <= REACH.get(method, 512)
    regime = "original" if method in ("vanilla", "dynamic_ntk") and seq_len <= WINDOW else "rescaled"
    if cell["suite"] == "perplexity":
        nll = (3.0 if reached else 5.0) + 0.1 * draw
        measures = {"nll": 200 * nll, "n_scored_tokens": 200}
        return ok(cell, index, 2.718281828459045**-nll, measures=measures, regime=regime)
    if cell["suite"] == "recall":
        return ok(cell, index, (0.75 if reached else 0.25) + 0.25 * (draw < 0.5), regime=regime)
    chance = 0.98 if reached else (0.25 if cell["suite"] == "choices" else 0.05)
    score = float(draw < chance)
    if cell["suite"] != "needle":
        return ok(cell, index, score, regime=regime)
    return ok(cell, index, score, regime=regime, metadata={"depth_fraction": (index % 5) / 4}, **_texts(score))


def _texts(score: float) -> dict[str, Any]:
    """What a needle record holds besides its score."""
    excerpt = {
        "head": "A special magic number is hidden within the following text.",
        "needle": "The sky is blue. One of the special magic numbers for calm-otter is: 4301297. The sun is yellow.",
        "tail": "What is the special magic number for calm-otter mentioned in the provided text?",
    }
    output = " 4301297." if score else " 1111111."
    return {"output": output, "answers": ("4301297",), "excerpt": excerpt, "n_prompt_tokens": 240, "n_new_tokens": 9}


def _rope() -> dict[str, Any]:
    inv_freq = [10_000 ** (-pair / 16) for pair in range(16)]
    rope = {"original_max_position_embeddings": WINDOW, "rope_theta": 10_000.0, "rotary_dim": 32}
    return rope | {"theoretical_critical_pair": 8, "inv_freq": inv_freq}


def _factors(model: str, method: str) -> dict[str, Any]:
    ramp = [4.0 ** min(1.0, pair / 12) for pair in range(16)]
    shapes = {"vanilla": [1.0] * 16, "position_interpolation": [4.0] * 16, "yarn": ramp}
    factors = shapes.get(method, [*ramp[:14], None, None])
    fields = {"model": model, "method": method, "seq_len": 2048, "attention_factor": 1.0 + 0.1 * (method == "yarn")}
    return fields | {"rescale_factors": factors, "critical_pair": None if method == "vanilla" else 8}
