"""A finished search made by hand, for the tests of what is written of one."""

import math
from dataclasses import replace

import numpy as np

from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Draw
from methods.longrope.search.outcome import CurvePoint, Judged, SearchFacts, SearchOutcome, Tried
from methods.ntk import NTK
from methods.position_interpolation import PositionInterpolation
from methods.yarn import YaRN
from tests.methods.ropes import TINY

TARGET = 4096
N_DOCUMENTS = 8


def draw(split="search", block=0, seq_len=TARGET, n=N_DOCUMENTS) -> Draw:
    return Draw(split=split, block=block, seq_len=seq_len, n_documents=n)


def closed_forms(rope=TINY, target=TARGET) -> dict[str, Candidate]:
    methods = {
        "pi": PositionInterpolation(target_length=target),
        "ntk": NTK(target_length=target),
        "yarn": YaRN(target_length=target),
    }
    found = {}
    for name, method in methods.items():
        scaling = method.rope_scaling(rope, seq_len=target)
        found[name] = Candidate(
            rescale_factors=tuple(scaling.rescale_factors_P(rope).tolist()),
            attention_factor=scaling.attention_factor,
            origin=name,
        )
    return found


def flat_top(critical: int, top: float, *, origin="closed_form(6, 14, 1.5)", rope=TINY) -> Candidate:
    pairs = np.arange(len(rope.inv_freq_P))
    factors = top ** (np.clip((pairs - 6) / (critical - 6), 0, 1))
    return Candidate(
        rescale_factors=tuple(factors.tolist()), attention_factor=1.31, critical_pair=critical, origin=origin
    )


def judged(candidate: Candidate, loss: float, seed: int, n: int = 32) -> Judged:
    losses = tuple((loss * np.random.default_rng(seed).gamma(2.0, 0.5, n)).tolist())
    return Judged(candidate=candidate, held_out_loss=loss, test_loss=float(np.mean(losses)), test_losses=losses)


def outcome(**changes) -> SearchOutcome:
    """Sixty candidates of four origins, one of them with no finite loss, the first ones on shorter documents."""
    rng = np.random.default_rng(0)
    forms = closed_forms()
    tried, spent = [], 0.0
    for name, loss in {"pi": 9.1, "ntk": 6.3, "yarn": 0.61}.items():
        spent += 1
        tried.append(Tried(candidate=forms[name], loss=loss, draw=draw(), measure="loss", forward_equivalents=spent))
    for i in range(60):
        shorter = i < 12
        spent += 0.25 if shorter else 3.0
        loss = 0.2 + 0.5 * math.exp(-i / 12) + 0.05 * float(rng.standard_normal() ** 2)
        candidate = flat_top(14, 10 + i / 20, origin=("closed_form(6, 14, 1.5)" if shorter else "adam"))
        where = draw(block=i, seq_len=1024 if shorter else TARGET)
        measure = "loss" if shorter else "gradient"
        tried.append(
            Tried(candidate=candidate, loss=loss, draw=where, measure=measure, forward_equivalents=spent)
        )  # fmt: skip
    broken = flat_top(12, 400.0, origin="mutation")
    tried.append(
        Tried(candidate=broken, loss=math.nan, draw=draw(), measure="loss", forward_equivalents=spent + 1)
    )  # fmt: skip
    best = tried[-2].candidate
    curve = tuple(
        CurvePoint(
            forward_equivalents=t.forward_equivalents,
            search_loss=t.loss,
            test_loss=1.05 * t.loss if i % 8 == 0 else None,
            candidate=t.candidate,
        )
        for i, t in enumerate(tried[15:-1])
    )
    made = SearchOutcome(
        facts=facts(),
        best=judged(best, 0.2, 7),
        references={name: judged(forms[name], loss, 7) for name, loss in {"pi": 9.0, "ntk": 6.4, "yarn": 0.6}.items()},
        curve=curve,
        tried=tuple(tried),
        held_out=draw("held_out", n=32),
        test=draw("test", n=32),
        spent=spent + 1,
        unpaid=44.0,
        seconds=512.25,
        environment={"python": "3.11", "packages": {"torch": "2.13"}, "cores": 2},
    )
    return replace(made, **changes)


def facts(**changes) -> SearchFacts:
    made = SearchFacts(
        title="tiny-llama to 4096, fast",
        preset="tiny-fast",
        key="ab" * 32,
        model="tiny-llama",
        model_identity={"weights": "cd" * 32, "config": "ef" * 32},
        dtype="float32",
        attention="auto",
        rope=TINY,
        target_length=TARGET,
        algorithm="fast",
        settings={"learning_rate": 0.05, "start_pair": None},
        objective={"kind": "needle", "n_keys": 4, "n_asked": 1, "search_keys": None, "haystacks": ["docs"]},
        artifacts={"docs": "01" * 32},
        n_documents=N_DOCUMENTS,
        budget=160.0,
        seed=0,
    )
    return replace(made, **changes)
