"""`search.html`: a finished search on one page. Equal outcomes give equal bytes; nothing is fetched."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import RequestError
from harness.types import JSON
from methods.longrope.factors_file import packaged_factors, read_factors
from methods.longrope.search import figures
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.outcome import Judged, SearchOutcome
from methods.longrope.search.result import (
    finite,
    found_critical_pair,
    judged_by_name,
    search_losses,
    standard_error,
)
from methods.rope import theoretical_critical_pair, wavelengths
from reports import text
from reports.exports import Table
from reports.pages import page

_MOST_CANDIDATES = 12  # rows of the table; the figure has all
FOUND = "found"


def render(outcome: SearchOutcome) -> str:
    """The page of a finished search."""
    facts = outcome.facts
    rope = facts.rope
    ratio = rope.extension_ratio(facts.target_length)
    theoretical = theoretical_critical_pair(rope)
    curves = _curves(outcome)
    return page(
        "search.html.j2",
        title=facts.title,
        facts=facts,
        window=rope.original_max_position_embeddings,
        ratio=ratio,
        verdict=_verdict(outcome, ratio, theoretical),
        documents={"held-out": outcome.held_out, "test": outcome.test},
        losses=_losses(outcome),
        figures=[
            figures.loss_by_budget(outcome),
            figures.candidates(outcome),
            figures.factors(
                [{"method": name, "rescale_factors": list(values)} for name, values in curves.items()],
                ratio=ratio,
                theoretical=theoretical,
                marked=_marked(outcome.best.candidate, ratio),
            ),
        ],
        factors=_factors(outcome, curves, theoretical),
        candidates=_candidates(outcome),
        points=_points(outcome),
        records=_records(outcome),
        attention_factor=f"{outcome.best.candidate.attention_factor:.6g}",
        readjusts="readjusts" in facts.artifacts,
        start_tokens=outcome.best.candidate.start_tokens,
        number=number,
    )


def number(value: JSON, digits: int = 4) -> str:
    """A number to so many digits, a dash for what is unknown or not finite, anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        return str(value)
    if value is None or not math.isfinite(value):
        return text.DASH
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _verdict(outcome: SearchOutcome, ratio: float, theoretical: int) -> list[dict[str, str]]:
    """What a reader wants to know first: tone, term and text."""
    best, yarn = outcome.best, outcome.references.get("yarn")
    closed = [j for j in outcome.references.values() if math.isfinite(j.held_out_loss)]
    error = standard_error(best.test_losses)
    line = f"{number(best.test_loss, 3)}{f' ± {number(error, 2)}' if error is not None else ''} nats an answer token"
    lines = [{"tone": "plain", "term": "Loss on test documents", "text": line}]
    if yarn is not None:
        lower = best.test_loss < yarn.test_loss
        beside = f"{number(yarn.test_loss, 3)}; found over YaRN {number(_over(best.test_loss, yarn.test_loss), 2)}"
        lines.append({"tone": "good" if lower else "bad", "term": "YaRN on the same documents", "text": beside})
    if closed:
        lowest = min(closed, key=lambda judged: judged.held_out_loss)
        kept = best.held_out_loss <= lowest.held_out_loss
        lines.append(
            {
                "tone": "good" if kept else "bad",
                "term": "On held-out documents, beside the best closed form shown",
                "text": f"{number(best.held_out_loss, 3)} against {number(lowest.held_out_loss, 3)} "
                f"({_name_of(outcome, lowest)})",
            }
        )
    crossing = found_critical_pair(best.candidate, ratio) if ratio > 1 else None
    reached = f"the first pair whose factor reaches {number(ratio)} is {'none' if crossing is None else crossing}"
    lines.append({"tone": "plain", "term": "Critical pair", "text": f"theory says {theoretical}; {reached}"})
    spent = f"{number(outcome.spent)} of {number(outcome.facts.budget)} forward-equivalents"
    lines.append({"tone": "plain", "term": "Spent", "text": f"{spent}, {text.duration(outcome.seconds)}"})
    return lines


def _losses(outcome: SearchOutcome) -> dict[str, Any]:
    """The result beside the closed forms, each with its paired difference from YaRN on the test documents."""
    searched = search_losses(outcome)
    yarn = outcome.references.get("yarn")
    rows = []
    for name, judged in judged_by_name(outcome).items():
        difference, error = _paired(judged, yarn)
        rows.append(
            [
                name,
                finite(searched.get(judged.candidate.key)),
                finite(judged.held_out_loss),
                finite(judged.test_loss),
                standard_error(judged.test_losses),
                None if yarn is None else finite(_over(judged.test_loss, yarn.test_loss)),
                difference,
                error,
                judged.candidate.attention_factor,
            ]
        )
    columns = [
        "method",
        "search",
        "held_out",
        "test",
        "test_standard_error",
        "over_yarn",
        "difference_from_yarn",
        "difference_standard_error",
        "attention_factor",
    ]
    table = Table(name="search-losses", caption="Loss by method", columns=columns, rows=rows)
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return {"rows": named, "searched": any(row["search"] is not None for row in named), "table": table}


def _paired(judged: Judged, yarn: Judged | None) -> tuple[float | None, float | None]:
    """Mean difference from YaRN over the test documents, and its standard error."""
    if yarn is None or judged is yarn or len(judged.test_losses) != len(yarn.test_losses):
        return None, None
    differences = [ours - theirs for ours, theirs in zip(judged.test_losses, yarn.test_losses, strict=True)]
    if not differences or not all(map(math.isfinite, differences)):
        return None, None
    return statistics.fmean(differences), standard_error(differences)


def _over(value: float, reference: float) -> float:
    return value / reference if reference > 0 else math.nan


def _curves(outcome: SearchOutcome) -> dict[str, Sequence[float]]:
    """Factors by method: the result, the closed forms, and packaged lists for this RoPE and target."""
    curves: dict[str, Sequence[float]]
    curves = {name: judged.candidate.rescale_factors for name, judged in judged_by_name(outcome).items()}
    curves.pop("vanilla", None)
    for name in packaged_factors():
        listed = read_factors(name)
        try:
            listed.check(outcome.facts.rope)
        except RequestError:  # of another model
            continue
        if listed.target_length == outcome.facts.target_length:
            curves[f"list {name}"] = listed.rescale_factors
    return curves


def _marked(best: Candidate, ratio: float) -> dict[str, int]:
    crossing = found_critical_pair(best, ratio) if ratio > 1 else None
    marked = {} if crossing is None else {f"found reaches the ratio at pair {crossing}": crossing}
    if best.critical_pair is not None:
        marked[f"its searched part begins at pair {best.critical_pair}"] = best.critical_pair
    return marked


def _factors(outcome: SearchOutcome, curves: Mapping[str, Sequence[float]], theoretical: int) -> dict[str, Any]:
    lengths = wavelengths(outcome.facts.rope.inv_freq_P).tolist()
    columns = ["pair", "wavelength", *curves]
    rows = [[pair, finite(length), *(v[pair] for v in curves.values())] for pair, length in enumerate(lengths)]
    table = Table(name="search-factors", caption="Rescale factors by rotary pair", columns=columns, rows=rows)
    return {"names": list(curves), "rows": rows, "theoretical": theoretical, "table": table}


def _candidates(outcome: SearchOutcome) -> dict[str, Any]:
    """The best candidates by their last loss on documents of the search at the target length."""
    losses = search_losses(outcome)
    seen = {tried.candidate.key: tried.candidate for tried in outcome.tried}
    ranked = sorted((key for key, loss in losses.items() if math.isfinite(loss)), key=lambda key: losses[key])
    columns = ["candidate", "search_loss", "origin", "critical_pair", "attention_factor", "last_factor"]
    rows: list[list[JSON]] = [
        [
            key[:8],
            losses[key],
            seen[key].origin,
            seen[key].critical_pair,
            seen[key].attention_factor,
            seen[key].rescale_factors[-1],
        ]
        for key in ranked
    ]
    failed = len({t.candidate.key for t in outcome.tried if not math.isfinite(t.loss)})
    table = Table(name="search-candidates", caption="Candidates by search loss", columns=columns, rows=rows)
    return {"rows": rows[:_MOST_CANDIDATES], "n": len(rows), "n_tried": len(seen), "failed": failed, "table": table}


def _points(outcome: SearchOutcome) -> dict[str, Any]:
    columns = ["forward_equivalents", "search_loss", "test_loss", "origin"]
    rows: list[list[JSON]] = [
        [p.forward_equivalents, finite(p.search_loss), finite(p.test_loss), p.candidate.origin] for p in outcome.curve
    ]
    table = Table(name="search-curve", caption="Loss against budget", columns=columns, rows=rows)
    return {"rows": [row for row in rows if row[2] is not None], "table": table}


def _records(outcome: SearchOutcome) -> list[Table]:
    """What was asked for, and where it ran."""
    facts = outcome.facts
    asked = {
        "algorithm": facts.algorithm,
        **{f"search.{name}": value for name, value in facts.settings.items()},
        **{f"objective.{name}": value for name, value in facts.objective.items()},
        **{f"artifact.{name}": value for name, value in facts.artifacts.items()},
        "n_documents": facts.n_documents,
        "budget": facts.budget,
        "seed": facts.seed,
        "model": facts.model,
        **{f"model.{name}": value for name, value in facts.model_identity.items()},
        "dtype": facts.dtype,
        "attention": facts.attention,
        "search (sha256)": facts.key,
        "measured for this page alone, forward-equivalents": finite(outcome.unpaid),
    }
    return [
        Table(name=name, caption=caption, columns=["name", "value"], rows=[list(row) for row in text.flat(values)])
        for name, caption, values in (
            ("search-settings", "What was asked for", {k: _listed(v) for k, v in asked.items() if v is not None}),
            ("search-environment", "Where it ran", dict(outcome.environment)),
        )
    ]


def _listed(value: JSON) -> JSON:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _name_of(outcome: SearchOutcome, judged: Judged) -> str:
    return next(name for name, reference in outcome.references.items() if reference is judged)
