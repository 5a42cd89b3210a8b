"""Synthetic runs as results folders, keys and check values as a real run has them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.manifest import cell_key
from harness.store import Store
from harness.types import RunData, content_hash
from tests.reports.synthetic import METRICS, _rich_answer, entry, failed, run_data


def real(run: RunData, **changes: Any) -> RunData:
    """The run with what `reports.submissions` asks for and the keys that its cells really have."""
    manifest = json.loads(json.dumps({**run.manifest, **changes}))
    for model in manifest["models"].values():
        model.setdefault("params", {})
    for method in manifest["methods"].values():
        method.setdefault("artifacts", {})
    records = {}
    for cell in manifest["cells"]:
        cell.setdefault("artifacts", {"weights": content_hash(cell["model"]), "haystack": content_hash(cell["suite"])})
        old = cell["key"]
        cell["key"] = cell_key(manifest, cell)
        if old in run.records:
            records[cell["key"]] = tuple(replace(r, cell_key=cell["key"]) for r in run.records[old])
    manifest["plan"] = content_hash([[cell["key"] for cell in manifest["cells"]], manifest["title"]])
    return RunData(manifest=manifest, records=records)


def write_run(run: RunData, folder: Path, facts: Mapping[str, Any] | None = None) -> Path:
    """The run's folder, as a run would leave it."""
    store = Store(folder)
    with store.opened_for(run.manifest):
        for key, found in run.records.items():
            with store.appending(key) as writer:
                for record in found:
                    writer.append(record)
                writer.finish(facts or {"environment": {"device": "cpu"}})
    return folder


LENGTHS = (256, 512, 1024)


def answered(cell: Mapping[str, Any], i: int) -> Any:
    """As in the rich synthetic run, without a sample that was not run."""
    return _rich_answer(cell, i) or failed(cell, i)


def made(  # type: ignore[no-untyped-def]
    methods, model="tiny", title="Run", n=40, of=tuple(METRICS), lengths=LENGTHS, answer=answered, **changes
):
    cells = [
        entry(m, s, t, length, n, model=model) for m in methods for s in of for t in METRICS[s] for length in lengths
    ]
    return real(run_data(cells, answer, **changes), title=title)
