"""What a preset's `[report]` says: how a run is judged, and which suites are judged together."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from typing import Literal

from harness.errors import RequestError, unknown
from harness.types import JSON

Threshold = Literal["native", "nolima", "ruler"]


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """How a run is judged.

    base: label of the method that retention and the relative thresholds are measured against.
    threshold: the score a length must reach; `native_share` is the share of the base's own score `native` asks for.
    margin: the retention below which short context counts as lost. confidence: of every interval.
    published: a file of `reports/published` whose numbers are printed beside this run's.
    groups: name -> labels of suites whose tasks are judged together, each task with equal weight.
    """

    base: str = ""
    threshold: Threshold = "native"
    native_share: float = 0.9
    margin: float = 0.985
    confidence: float = 0.95
    published: str = ""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("native_share", "margin", "confidence"):
            value = getattr(self, name)
            if not 0 < value <= 1 or (name == "confidence" and value == 1):
                raise ValueError(f"{name} = {value:g}: it should be a fraction between 0 and 1")
        for group, suites in self.groups.items():
            _check_group(group, suites)

    def as_json(self) -> dict[str, JSON]:
        """What `run.json` says of it: every setting, and groups where there are any."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "groups" or self.groups}


def check_groups(groups: Mapping[str, Sequence[str]], kinds: Mapping[str, AbstractSet[str]]) -> None:
    """Raises RequestError for a group that a run's suites cannot make up.

    kinds: suite label -> the kinds of its tasks' metrics.
    """
    for group, suites in groups.items():
        if group in kinds:
            raise RequestError(f"report.groups: '{group}' is a suite's label: give the group a name of its own")
        for suite in suites:
            if suite not in kinds:
                raise unknown(f"suite in report.groups.{group}", suite, kinds)
        likelihood = [suite for suite in suites if "likelihood" in kinds[suite]]
        other = [suite for suite in suites if kinds[suite] - {"likelihood"}]
        if likelihood and other:
            raise RequestError(
                f"report.groups.{group}: '{likelihood[0]}' has likelihoods and '{other[0]}' has other scores, "
                "whose mean means nothing: it should name suites of one of the two"
            )


def _check_group(group: str, suites: object) -> None:
    if not group.strip() or "/" in group:
        raise ValueError(f"groups: the name '{group}': it should be a text without '/', which leads to a suite's task")
    if not isinstance(suites, list | tuple) or not suites or not all(isinstance(suite, str) for suite in suites):
        raise ValueError(f"groups.{group} = {suites!r}: it should be a list of at least one suite's label")
    if len(set(suites)) < len(suites):
        raise ValueError(f"groups.{group} = {list(suites)}: a suite is named twice")
