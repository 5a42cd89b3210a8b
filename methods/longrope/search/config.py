"""A search's TOML file to a validated plan: every name and number is checked here, and no model is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.catalogue import build, resolve
from harness.config import find_preset, key_params, model_request, read_toml, resolve_paths
from harness.errors import RequestError, did_you_mean
from harness.models import request as models
from harness.models.request import ModelRequest, with_weights_at_hand
from harness.models.rope_facts import rope_spec
from harness.types import JSON, content_hash
from methods.base import RopeSpec
from methods.longrope.factors_file import RescaleFactors, read_factors
from methods.longrope.search import CATALOGUE
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.documents import Objective
from methods.longrope.search.evaluator import Searcher, Unit
from methods.longrope.search.haystacks import load_haystack
from methods.longrope.search.loop import ReportSettings
from methods.longrope.search.outcome import SearchFacts
from methods.longrope.search.space import Problem

VERSION = 1  # raised when the same configuration gives other numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchPlan:
    """A validated search.

    algorithm: its settings, an object whose `start(problem)` gives a searcher. readjusts: the factors for long contexts
    that the found ones stand beside, where the search is for shorter ones.
    """

    facts: SearchFacts
    model: ModelRequest
    objective: Objective
    algorithm: Any
    problem: Problem
    report: ReportSettings
    readjusts: RescaleFactors | None = None

    def references(self) -> Mapping[str, Candidate]:
        """The closed forms that stand beside the result, by method name; the last is LongRoPE2's theory."""
        problem = self.problem
        found = {"position_interpolation": problem.pi(), "ntk": problem.ntk(), "yarn": problem.yarn()}
        if problem.readjusts is None:
            pair = problem.theoretical_critical_pair
            found["longrope2_closed_form"] = problem.closed_form(critical_pair=pair, top_factor=1.0)
        return found

    def start(self, unit: Unit) -> Searcher:
        """The searcher, counting in the evaluator's unit. Raises RequestError where a setting does not fit."""
        searcher: Searcher = self.algorithm.start(replace(self.problem, unit=unit))
        return searcher


@dataclass(frozen=True, kw_only=True)
class _Config:
    """The top level of the TOML file.

    readjusts: a factors file whose model meets shorter inputs than it was made for; see `space.Problem`.
    """

    target_length: int
    title: str = ""
    seed: int = 0
    model: Any = None
    objective: Mapping[str, JSON] = field(default_factory=dict)
    search: Any = None
    report: Mapping[str, JSON] = field(default_factory=dict)
    readjusts: str | None = field(default=None, metadata={"path": True})


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What `[search]` says beside the algorithm's own settings."""

    algorithm: str
    budget: float


def load_search(name: str) -> SearchPlan:
    """The plan of a configuration, by its name or its path. Raises RequestError for whatever is wrong in it."""
    path = find_preset(name, "search")
    where = f"search '{path.stem}'"
    table = resolve_paths(_Config, read_toml(path), path.parent, where)
    config: _Config = build(_Config, table, where=where)
    request = _model(config, path.parent, where)
    objective: Objective = build(
        Objective, resolve_paths(Objective, config.objective, path.parent, "objective"), where="objective"
    )
    search, algorithm = _algorithm(config, path.parent, where)
    report: ReportSettings = build(ReportSettings, config.report, where="report")
    models.check(request)
    rope = rope_spec(request)
    readjusts, artifacts = _readjusts(config.readjusts, rope)
    problem = Problem(
        rope=rope,
        target_length=config.target_length,
        unit=objective.unit(config.target_length, on_gpu=False),
        n_documents=objective.n_documents,
        fresh=objective.documents == "fresh",
        seed=config.seed,
        budget=search.budget,
        readjusts=None if readjusts is None else _candidate(readjusts),
    )
    algorithm.start(problem)
    facts = SearchFacts(
        title=config.title or path.stem,
        preset=path.stem,
        key="",
        model=str(request.label),
        model_identity=models.fingerprint(request),
        dtype=request.dtype,
        attention=request.attention,
        rope=problem.rope,
        target_length=config.target_length,
        algorithm=search.algorithm,
        settings=key_params(algorithm),
        objective=key_params(objective),
        artifacts={**artifacts, **_texts(objective)},
        n_documents=objective.n_documents,
        budget=search.budget,
        seed=config.seed,
    )
    return SearchPlan(
        facts=replace(facts, key=_key(facts, algorithm, report)),
        model=request,
        objective=objective,
        algorithm=algorithm,
        problem=problem,
        report=report,
        readjusts=readjusts,
    )


def _model(config: _Config, folder: Path, where: str) -> ModelRequest:
    if not isinstance(config.model, dict) or not isinstance(config.model.get("name"), str):
        raise RequestError(f'{where} has no model: write name = "..." under [model]')
    return with_weights_at_hand(model_request(config.model, folder))


def _algorithm(config: _Config, folder: Path, where: str) -> tuple[_Search, Any]:
    table = config.search
    if not isinstance(table, dict) or not isinstance(table.get("algorithm"), str):
        raise RequestError(
            f'{where} has no algorithm: write algorithm = "..." under [search]; {did_you_mean("", CATALOGUE)}'
        )
    ours = {"algorithm", "budget"}
    search: _Search = build(_Search, {name: table[name] for name in ours & table.keys()}, where="[search]")
    cls = resolve("algorithm", search.algorithm)
    what = f"algorithm '{search.algorithm}'"
    settings = {name: value for name, value in table.items() if name not in ours}
    return search, build(cls, resolve_paths(cls, settings, folder, what), where=what)


def _readjusts(name: str | None, rope: RopeSpec) -> tuple[RescaleFactors | None, dict[str, str]]:
    if name is None:
        return None, {}
    found = read_factors(name)
    found.check(rope)
    for setting in ("attention_factor", "target_length"):
        if getattr(found, setting) is None:
            raise RequestError(f"readjusts = '{name}': the file should say its {setting}, which stays")
    return found, {"readjusts": found.sha256}


def _candidate(found: RescaleFactors) -> Candidate:
    assert found.attention_factor is not None
    return Candidate(rescale_factors=found.rescale_factors, attention_factor=found.attention_factor)


def _texts(objective: Objective) -> dict[str, str]:
    """haystack -> sha256 of its whole text; of noise alone also the prose that short losses are measured on."""
    kinds = objective.haystacks if objective.haystacks != ("noise",) else ("noise", "docs")
    return {kind: load_haystack(kind, books=objective.books, data_dir=objective.data_dir).sha256 for kind in kinds}


def _key(facts: SearchFacts, algorithm: Any, report: ReportSettings) -> str:
    """sha256 of everything that moves a number of the search or of its report."""
    names = ("title", "preset", "key", "model", "rope")
    table = {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name not in names}
    versions = [VERSION, Objective.version, getattr(algorithm, "version", 1)]
    return content_hash([versions, table, [report.test_documents, report.curve_points]])
