"""The Ray cluster that the tests marked `ray` share."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@contextmanager
def started(*cpus: int) -> Iterator:
    """A `ray.cluster_utils.Cluster` on this machine: a node for each number of CPUs, the first its head."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "include_dashboard": False})
        for more in cpus[1:]:
            made.add_node(num_cpus=more)
        yield made
        made.shutdown()


@pytest.fixture(scope="session")
def cluster() -> Iterator:
    """Three nodes of one CPU."""
    with started(1, 1, 1) as made:
        yield made
