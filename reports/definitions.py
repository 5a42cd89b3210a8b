"""What each number of a report means, in words, with the settings it was computed with."""

from collections.abc import Mapping

from harness import stats
from harness.types import JSON
from reports.cells import FEWER_RESAMPLES, MANY_CELLS
from reports.firsts import MOST_COMPARED

RULER_THRESHOLD = 0.856  # Llama-2-7B at 4K. Source: arXiv:2404.06654
NOLIMA_SHARE = 0.85  # Source: arXiv:2502.05167


def threshold_text(report: Mapping[str, JSON]) -> str:
    """The rule a score must meet for its length to count."""
    base = report["base"]
    if report["threshold"] == "ruler":
        return f"ruler: a score strictly above {RULER_THRESHOLD}"
    share = NOLIMA_SHARE if report["threshold"] == "nolima" else report["native_share"]
    where = f"of the score of {base} at its shortest tested length, taken as a fixed number"
    return f"{report['threshold']}: {share:g} {where}"


def definitions(report: Mapping[str, JSON]) -> dict[str, str]:
    """term -> text."""
    level = f"{report['confidence']:.3g}"
    return {
        "Score": (
            "A fraction in [0, 1]: the mean over the answered samples. For likelihood it is exp of minus the mean "
            "negative log-likelihood of a token, which is 1 / perplexity. A group's score is the mean of its tasks "
            "with equal weight. Without an answer it is null with the reason, never 0."
        ),
        "Interval": (
            f"Two-sided, confidence {level}. Binary: Wilson, for a mean of tasks with the effective sample size "
            "1 / sum(w^2 / n). Graded and likelihood: bootstrap over samples or documents, stratified by task, "
            f"percentiles expanded for small n; {stats.RESAMPLES:,} resamples, in a run of more than {MANY_CELLS:,} "
            f"cells {FEWER_RESAMPLES:,}. A planned sample without an answer (truncated, out of memory, timed out, "
            "failed, not run) counts as 0 at the low end and as 1 at the high end."
        ),
        "Effective length": (
            f"Shown as [lower-bound rule, point rule]. Lower-bound rule: the largest tested length such that the "
            f"one-sided lower bound, confidence {level}, reaches the threshold there and at every shorter tested "
            "length. Point rule: the same with the score itself. In both a planned sample without an answer counts "
            "as 0."
        ),
        "Threshold": threshold_text(report) + ".",
        "Retention": (
            f"Score of the method over the score of {report['base']} on the same samples, in cells no longer than the "
            "original window; a suite's ratio is that of its mean scores, 'all' is the mean of the suites' ratios with "
            f"equal weight. Paired bootstrap of the ratio, confidence {level}, stratified by cell; binary scores "
            "with Jeffreys' prior of half an observation in each corner of the paired table, so that a small sample "
            "without a difference is no proof, except where both sides ran under the original RoPE: then equal "
            "scores are the same computation. A pair without both answers is 0 against 1 at the low end, 1 against 0 "
            "at the high end. Chance corrected: the chance score taken off both. A task on which the interval of "
            f"{report['base']}, over all its lengths, does not lie above chance is left out and named."
        ),
        "Difference": (
            f"Score of the method less that of {report['base']} on the same samples, the mean of a suite's tasks with "
            f"equal weight. Paired bootstrap, confidence {level}; p by flipping signs, for binary scores McNemar's "
            "exact test, two-sided. Holm: adjusted for the number of methods at this suite and length, so that of all "
            "methods together a false difference is shown at most "
            f"{100 * (1 - report['confidence']):.3g} times in a hundred."
        ),
        "First": (
            "The method with the highest score in a suite or group at a length, among those with all its tasks there; "
            "an unanswered sample counts as 0, likelihoods are compared by their geometric mean over tasks, and of "
            "equal scores the earlier in the plan is first. Any other method is set against it on the samples both "
            f"answered, as under Difference. behind: the interval, confidence {level}, lies below 0. tied: it does "
            "not. The intervals are not adjusted for the number of methods, and the first was picked for its score: "
            "both call more methods behind than the confidence says, neither calls more tied, so that 'tied with the "
            "first' is the claim that is hard to reach. That the first is ahead of another takes p after Holm's "
            f"adjustment over the methods there. At most {MOST_COMPARED} methods a length are compared, the best."
        ),
        "Verdict": (
            f"retained: the whole interval is at or above the margin {report['margin']:g}; lost: the whole interval is "
            "below it; undecided: neither, so more samples are needed."
        ),
    }
