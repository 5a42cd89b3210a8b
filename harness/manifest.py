"""What `run.json` says of a run: the grid, the models' RoPE, the methods' factors, the environment."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness import environment
from harness.models.request import ModelRequest, model_params
from harness.models.rope_facts import rope_spec
from harness.plan import Plan
from harness.types import JSON, Cell
from methods.rope import theoretical_critical_pair

SCHEMA = 1


def manifest(plan: Plan) -> dict[str, JSON]:
    """The manifest of a plan. Raises RequestError when a method does not fit a model."""
    ropes = {str(request.label): rope_spec(request) for request in plan.models}
    return {
        "schema": SCHEMA,
        "title": plan.title,
        "preset": plan.preset,
        "plan": plan.key,
        "seed": plan.seed,
        "longreach": environment.package_version("longreach"),
        "models": {str(request.label): _model(request, ropes[str(request.label)]) for request in plan.models},
        "methods": {
            planned.label: {
                "name": planned.name,
                "params": planned.params,
                "version": planned.method.version,
                "source": getattr(planned.method, "source", ""),
                "original_inside_window": getattr(planned.method, "original_inside_window", False),
                "artifacts": planned.artifacts,
                **({"environment": planned.interpreter.contents} if planned.interpreter else {}),
            }
            for planned in plan.methods
        },
        "suites": {
            planned.label: {"name": planned.name, "params": planned.params, "version": planned.suite.version}
            for planned in plan.suites
        },
        "metrics": {
            planned.label: {task: _metric(planned.suite, task) for task in planned.tasks} for planned in plan.suites
        },
        "factors": [
            _factors(name, rope, planned.label, planned.method, plan.longest)
            for name, rope in ropes.items()
            for planned in plan.methods
            if hasattr(planned.method, "rope_scaling")
        ],
        "cells": [_cell(planned) for planned in plan.cells],
        "report": plan.report.as_json(),
        "environment": environment.gather(),
    }


def cell_key(manifest: Mapping[str, JSON], entry: Mapping[str, JSON]) -> str | None:
    """The key that a cell with these fields has; None where they hold NaN or infinity."""
    method, suite = manifest["methods"][entry["method"]], manifest["suites"][entry["suite"]]
    cell = Cell(
        model=entry["model"],
        model_params=manifest["models"][entry["model"]]["params"],
        method=entry["method_name"],
        method_params=method["params"],
        suite=suite["name"],
        suite_params=suite["params"],
        task=entry["task"],
        seq_len=entry["seq_len"],
        n_samples=entry["n_samples"],
        seed=entry["seed"],
        dtype=entry["dtype"],
        attention=entry["attention"],
        versions=(method["version"], suite["version"]),
        artifacts=entry["artifacts"],
        method_label=entry["method"],
        suite_label=entry["suite"],
    )
    try:
        return cell.key
    except ValueError:
        return None


def _model(request: ModelRequest, rope: Any) -> dict[str, JSON]:
    return {
        "params": model_params(request),
        "original_max_position_embeddings": rope.original_max_position_embeddings,
        "rope_theta": rope.rope_theta,
        "rotary_dim": rope.rotary_dim,
        "theoretical_critical_pair": theoretical_critical_pair(rope),
        "inv_freq": rope.inv_freq_P.tolist(),
    }


def _factors(model: str, rope: Any, label: str, method: Any, seq_len: int) -> dict[str, JSON]:
    scaling = method.rope_scaling(rope, seq_len=seq_len)
    factors = scaling.rescale_factors_P(rope)
    return {
        "model": model,
        "method": label,
        "seq_len": seq_len,
        "attention_factor": scaling.attention_factor,
        "rescale_factors": [float(factor) if np.isfinite(factor) else None for factor in factors],
        "critical_pair": theoretical_critical_pair(rope),
    }


def _metric(suite: Any, task: str) -> dict[str, JSON]:
    metric = suite.metric(task)
    return {"name": metric.name, "kind": metric.kind, "chance": metric.chance}


def _cell(planned: Any) -> dict[str, JSON]:
    cell = planned.cell
    return {
        "key": cell.key,
        "model": cell.model,
        "method": cell.method_label,
        "method_name": cell.method,
        "suite": cell.suite_label,
        "task": cell.task,
        "seq_len": cell.seq_len,
        "n_samples": cell.n_samples,
        "seed": cell.seed,
        "dtype": cell.dtype,
        "attention": cell.attention,
        "artifacts": dict(cell.artifacts),
    }
