"""Whether each node of a Ray cluster has the environments that methods name, before anything runs."""

import platform
from collections.abc import Iterable
from typing import Any

from harness.cluster.processes import interpreters_of
from harness.errors import RequestError
from harness.interpreters import Interpreter, probe
from harness.plan import PlannedCell

_ANSWER_S = 300.0  # until every node has said what is there


def check_environments(cells: Iterable[PlannedCell]) -> None:
    """Raises RequestError for an interpreter that Ray cannot start workers under, or that a node has not as it is here.

    Without it, a worker that cannot start there would be waited for without end.
    """
    import ray

    for where, interpreter in interpreters_of(cells).items():
        _check_fits_ray(where, interpreter, ray.__version__)
        _check_nodes(where, interpreter, ray)


def _check_fits_ray(where: str, interpreter: Interpreter, version: str) -> None:
    """A cluster has one Ray and one Python: what they tell each other is pickled."""
    there, ours = interpreter.packages.get("ray"), platform.python_version()
    if there != version:
        found = f"has Ray {there}" if there else "has no Ray"
        raise RequestError(f"{where}: it {found}, the cluster has {version}: install that one there too")
    if interpreter.python.split(".")[:2] != ours.split(".")[:2]:
        raise RequestError(
            f"{where}: it is Python {interpreter.python}, the cluster has {ours}: Ray needs one Python everywhere"
        )


def _check_nodes(where: str, interpreter: Interpreter, ray: Any) -> None:
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    places, answers = [f"{where}, on {node['NodeManagerHostname']}" for node in nodes], []
    for node, place in zip(nodes, places, strict=True):
        there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_look)
        answers.append(look.remote(interpreter.path, place))
    try:
        found = ray.get(answers, timeout=_ANSWER_S)
    except RayError as error:
        raise RequestError(f"{where}: the cluster's nodes cannot be asked for it: {error}") from error
    for place, (sha256, reason) in zip(places, found, strict=True):
        if reason:
            raise RequestError(f"{reason}; every node needs it at the same path")
        if sha256 != interpreter.sha256:
            raise RequestError(f"{place}: other packages are installed there than here: every node needs the same ones")


def _look(path: str, where: str) -> tuple[str, str]:
    """On a node: the hash of what an interpreter there has, or why it is none."""
    try:
        return probe(path, where).sha256, ""
    except RequestError as error:
        return "", str(error)
