"""Many runs to one static site: an index, a page a method, a page a model, and each run's report.

`build(folders, out)` checks, ranks and writes. The site opens from disk and from any static host, fetches nothing,
reads well without scripts, and equal submissions give equal bytes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import RequestError
from harness.store import write_atomically
from harness.types import content_hash
from reports.cells import number
from reports.clean import printable
from reports.definitions import definitions
from reports.exports import Table
from reports.html import render
from reports.pages import page
from reports.pareto import pareto
from reports.standings import DEFINITIONS, Board, Standing, board
from reports.submissions import Refusal, Submission, read_submissions
from reports.tables import as_json

DONE, NONE_LEFT, SOME_REFUSED = 0, 2, 5
_MARK = "leaderboard.json"
_SCHEMA = 1
_SCRIPTS = ("report.js", "leaderboard.js")


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """What was written. exit_code: 0; 5 when some runs were refused; 2 when none is left."""

    out: Path
    accepted: tuple[str, ...]
    refused: tuple[Refusal, ...]

    @property
    def exit_code(self) -> int:
        """0 all stand on it, 5 some were refused, 2 none is left."""
        if not self.accepted:
            return NONE_LEFT
        return SOME_REFUSED if self.refused else DONE


def build(folders: Sequence[Path], out: Path) -> Leaderboard:
    """The site of these runs in `out`; nothing is written when no run is left.

    Raises RequestError when `out` holds something else than a leaderboard.
    """
    earlier = _earlier_files(out)
    accepted, refused = read_submissions(folders)
    made = Leaderboard(out=out, accepted=tuple(s.folder for s in accepted), refused=tuple(refused))
    if accepted:
        _write(out, _files(accepted, refused), earlier)
    return made


def render_refusals(made: Leaderboard) -> str:
    """A line a refused run, for stderr."""
    lines = [f"{printable(r.folder)} was refused: {printable(reason)}" for r in made.refused for reason in r.reasons]
    return "".join(f"{text}\n" for text in lines)


def _files(accepted: Sequence[Submission], refused: Sequence[Refusal]) -> dict[str, str]:
    """Every file of the site: path -> text."""
    standings = board(accepted)
    runs = [_run(submission) for submission in accepted]
    report = accepted[0].run.manifest["report"]
    common: dict[str, Any] = {
        "board": standings,
        "runs": runs,
        "refused": refused,
        "methods": _pages_of("methods", standings.methods),
        "models": _pages_of("models", standings.models),
        "definitions": {**DEFINITIONS, **definitions(report)},
        "tested": lambda rows: [suite for suite in standings.suites if any(suite in row.series for _, row in rows)],
    }
    numbered = list(enumerate(standings.rows, 1))
    figures = [pareto(standings.rows, cost=cost, name=f"pareto-{cost}") for cost in ("retention", "seconds")]
    files = {
        "index.html": page(
            "leaderboard.html.j2",
            title="Longreach leaderboard",
            scripts=_SCRIPTS,
            rows=numbered,
            figures=figures,
            **common,
        )
    }
    for model, path in common["models"].items():
        ours = [(i, row) for i, row in numbered if row.model == model]
        facts = [
            (run, s.run.manifest["models"][model]) for run, s in zip(runs, accepted, strict=True) if _has(s, model)
        ]
        files[path] = page(
            "leaderboard_model.html.j2",
            title=f"Model {printable(model, 80)}",
            name=model,
            rows=ours,
            facts=facts,
            **common,
        )
    for method, path in common["methods"].items():
        ours = [(i, row) for i, row in numbered if row.method == method]
        used = dict.fromkeys(row.run for _, row in ours)
        settings = [(runs[i], accepted[i].run.manifest["methods"][method]) for i in used]
        files[path] = page(
            "leaderboard_method.html.j2",
            title=f"Method {printable(method, 80)}",
            name=method,
            rows=ours,
            settings=settings,
            **common,
        )
    for run, submission in zip(runs, accepted, strict=True):
        files[run["report"]] = render(submission.run)
        files[run["summary"]] = json.dumps(as_json(submission.analysis), indent=1, allow_nan=False) + "\n"
    files["leaderboard.csv"] = _csv(standings, runs)
    return files


def _has(submission: Submission, model: str) -> bool:
    return model in submission.run.manifest["models"]


def _run(submission: Submission) -> dict[str, Any]:
    manifest = submission.run.manifest
    folder = f"runs/{_slug(manifest['title'], manifest['plan'])}"
    return {
        "title": manifest["title"],
        "preset": manifest["preset"],
        "plan": manifest["plan"],
        "longreach": manifest["longreach"],
        "devices": submission.devices,
        "report": f"{folder}/report.html",
        "summary": f"{folder}/summary.json",
    }


def _pages_of(folder: str, names: Sequence[str]) -> dict[str, str]:
    return {name: f"{folder}/{_slug(name, content_hash(name))}.html" for name in names}


def _slug(name: str, digest: str) -> str:
    """A file name that says what it is of, safe everywhere and of one name alone."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-")
    return f"{readable or 'x'}-{digest[:10]}"


def _csv(standings: Board, runs: Sequence[Mapping[str, Any]]) -> str:
    places = [(suite, length) for suite, lengths in standings.suites.items() for length in lengths]
    head = ["rank_best", "rank_worst", "model", "method", "run", "effective_length", "point_rule", "retention"]
    head += ["retention_low", "retention_high", "retention_verdict", "seconds_a_sample", "peak_memory_bytes"]
    head += [f"{suite}/{length} {what}" for suite, length in places for what in ("score", "low", "high")]
    rows = []
    for row in standings.rows:
        scores = [row.scores.get(place) for place in places]
        ends = [number(getattr(s.estimate, n)) if s else None for s in scores for n in ("value", "low", "high")]
        rows.append([*_row_fields(row, runs[row.run]["title"]), *ends])
    return Table(name="leaderboard", caption="Standings", columns=head, rows=rows).csv()


def _row_fields(row: Standing, title: str) -> list[Any]:
    rank = (row.rank.best, row.rank.worst) if row.rank else (None, None)
    kept = (row.retention, row.retention_low, row.retention_high, row.retention_verdict)
    place = (row.model, row.method, title, row.effective_length, row.point_rule)
    return [*rank, *place, *kept, row.seconds, row.peak_memory_bytes]


def _earlier_files(out: Path) -> list[str]:
    """The files of the leaderboard that `out` holds already."""
    if not out.exists() or not any(out.iterdir()):
        return []
    try:
        mark = json.loads((out / _MARK).read_text(encoding="utf-8"))
        files = mark["files"] if mark["leaderboard"] == _SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        files = None
    if not isinstance(files, list) or not all(_is_inside(name) for name in files):
        raise RequestError(f"{out} is not empty and holds no leaderboard: give --out a new or empty folder")
    return files


def _is_inside(name: Any) -> bool:
    return isinstance(name, str) and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def _write(out: Path, files: Mapping[str, str], earlier: Sequence[str]) -> None:
    """The files, and none of an earlier leaderboard's that are no longer among them. What else is there stays."""
    out.mkdir(parents=True, exist_ok=True)
    mark = {"leaderboard": _SCHEMA, "files": sorted(files)}
    write_atomically(out / _MARK, json.dumps(mark, indent=1) + "\n")
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / name, text)
    for name in set(earlier) - set(files):
        (out / name).unlink(missing_ok=True)
