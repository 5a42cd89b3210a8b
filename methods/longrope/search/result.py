"""`factors.json`: what a search found, as `longrope2` and `longrope` read it, and everything that led to it.

`methods.longrope.factors_file` reads the factors and what they are for; the rest are notes. Losses are mean negative
log-likelihoods an answer token, in nats; null where the model gave numbers that are not finite.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from harness.store import write_atomically
from harness.types import JSON
from methods.longrope.factors_file import SCHEMA_VERSION, RescaleFactors
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.outcome import Judged, SearchFacts, SearchOutcome


def write_factors(outcome: SearchOutcome, path: Path, *, readjusts: RescaleFactors | None = None) -> None:
    """The factors file of a finished search, written whole or not at all."""
    table = factors_table(outcome, readjusts=readjusts)
    write_atomically(path, json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def factors_table(outcome: SearchOutcome, *, readjusts: RescaleFactors | None = None) -> dict[str, JSON]:
    """Its contents.

    readjusts: the factors beyond the window, where the search was for those inside it; else those are 1, the original
        RoPE.
    """
    facts, best = outcome.facts, outcome.best.candidate
    ones = [1.0] * len(best.rescale_factors)
    rope = facts.rope
    return {
        "schema_version": SCHEMA_VERSION,
        "source": f"a search of Longreach: {facts.algorithm}, {facts.model}, "
        f"{rope.original_max_position_embeddings} to {facts.target_length} tokens, seed {facts.seed}",
        "rotary_dim": rope.rotary_dim,
        "rope_theta": rope.rope_theta,
        "original_max_position_embeddings": rope.original_max_position_embeddings,
        "target_length": readjusts.target_length if readjusts else facts.target_length,
        "rescale_factors": list(readjusts.rescale_factors if readjusts else best.rescale_factors),
        "short_factor": list(best.rescale_factors) if readjusts else ones,
        "attention_factor": best.attention_factor,
        "start_tokens": readjusts.start_tokens if readjusts else best.start_tokens,
        "short_start_tokens": best.start_tokens if readjusts else 0,
        "critical_pair": best.critical_pair,
        "origin": best.origin,
        "model": {
            "name": facts.model,
            "identity": dict(facts.model_identity),
            "dtype": facts.dtype,
            "attention": facts.attention,
        },
        "search": _search(outcome),
        "losses": losses(outcome),
        "documents": {"held_out": asdict(outcome.held_out), "test": asdict(outcome.test)},
        "curve": [
            {
                "forward_equivalents": point.forward_equivalents,
                "search_loss": finite(point.search_loss),
                "test_loss": finite(point.test_loss),
            }
            for point in outcome.curve
        ],
        "environment": dict(outcome.environment),
    }


def losses(outcome: SearchOutcome) -> dict[str, dict[str, JSON]]:
    """What the result and each closed form reached on the three splits, by name; the result is `found`."""
    searched = search_losses(outcome)
    return {
        name: {
            "search": finite(searched.get(judged.candidate.key)),
            "held_out": finite(judged.held_out_loss),
            "test": finite(judged.test_loss),
            "test_standard_error": standard_error(judged.test_losses),
        }
        for name, judged in judged_by_name(outcome).items()
    }


def judged_by_name(outcome: SearchOutcome) -> dict[str, Judged]:
    """The result as `found`, then the closed forms."""
    return {"found": outcome.best, **outcome.references}


def search_losses(outcome: SearchOutcome) -> dict[str, float]:
    """Candidate key -> its last loss on documents of the search, at the target length."""
    facts = outcome.facts
    return {
        tried.candidate.key: tried.loss
        for tried in outcome.tried
        if tried.measure != "short_loss"
        and tried.draw.split == "search"
        and tried.draw.seq_len == facts.target_length
    }  # fmt: skip


def found_critical_pair(candidate: Candidate, ratio: float) -> int | None:
    """The first pair whose factor reaches the ratio: what arXiv:2502.20082 calls the real critical dimension, halved.

    None where no pair does. That LLaMA3-8B's published list crosses 16 at pair 30, the paper's value, though its
    searched part begins at 33, is how we know.
    """
    return next((pair for pair, factor in enumerate(candidate.rescale_factors) if factor >= ratio * (1 - 1e-9)), None)


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean, over documents; None below two, or where one is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return statistics.stdev(values) / math.sqrt(len(values))


def finite(value: float | None) -> float | None:
    """The number, or None where it is none."""
    return value if value is not None and math.isfinite(value) else None


def _search(outcome: SearchOutcome) -> Mapping[str, JSON]:
    facts: SearchFacts = outcome.facts
    return {
        "title": facts.title,
        "key": facts.key,
        "algorithm": facts.algorithm,
        "settings": dict(facts.settings),
        "objective": dict(facts.objective),
        "artifacts": dict(facts.artifacts),
        "n_documents": facts.n_documents,
        "seed": facts.seed,
        "budget": facts.budget,
        "spent": outcome.spent,
        "unpaid": outcome.unpaid,
        "n_measured": len(outcome.tried),
        "seconds": round(outcome.seconds, 3),
    }
