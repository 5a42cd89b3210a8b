"""The closed forms that the gradient search chooses its starts from."""

import numpy as np

from methods.longrope.search.candidate import Candidate
from methods.longrope.search.space import Problem
from methods.rope import AttentionPolicy
from methods.yarn import YaRN

_TOP_FACTORS = (1.0, 1.25, 1.5, 2.0)
_YARN_RATIOS = (1.0, 1.5, 2.0)  # YaRN's ramp for a larger ratio than the problem's
_START_SHARES = (0.0, 0.25, 0.5)  # of the critical pair: below, factors are 1
_N_CRITICAL_PAIRS = 4


def closed_forms(problem: Problem, attentions: tuple[AttentionPolicy, ...]) -> list[Candidate]:
    """YaRN, YaRN for a larger ratio, PI, NTK, then LongRoPE2's shape on a grid in a random order of the seed's.

    The grid: critical pair x factor at the top x pair up to which factors are 1; all with each attention factor.
    """
    yarns = [_yarn(problem, ratio, attention) for ratio in _YARN_RATIOS for attention in attentions]
    others = [problem.pi(attention=attentions[0]), problem.ntk(attention=attentions[0])]
    grid = [
        problem.closed_form(critical_pair=critical, top_factor=top, start_pair=start, attention=attention)
        for critical in _spaced(problem.critical_pairs)
        for start in dict.fromkeys(int(share * critical) for share in _START_SHARES)
        for top in _TOP_FACTORS
        for attention in attentions
    ]
    np.random.Generator(np.random.PCG64(problem.seed)).shuffle(grid)
    return list({candidate.key: candidate for candidate in [*yarns, *others, *grid]}.values())


def _yarn(problem: Problem, times: float, attention: AttentionPolicy) -> Candidate:
    """YaRN's factors for so many times the ratio, with the attention factor that belongs to the ratio itself."""
    if times == 1:
        return problem.yarn(attention=attention)
    scaling = YaRN(factor=times * problem.ratio).rope_scaling(problem.rope, seq_len=problem.target_length)
    return Candidate(
        rescale_factors=tuple(np.maximum.accumulate(scaling.rescale_factors_P(problem.rope)).tolist()),
        attention_factor=problem.attention_factor(attention),
        origin=f"yarn for {times:g} x the ratio",
    )


def _spaced(pairs: range) -> list[int]:
    """A few of them, from the last to the first."""
    return list(dict.fromkeys(round(pair) for pair in np.linspace(pairs[-1], pairs[0], _N_CRITICAL_PAIRS).tolist()))
