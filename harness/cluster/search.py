"""`search --executor ray`: a search's candidates on a cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

from harness.cluster import pool
from methods.longrope.search.measuring import Setup


@contextmanager
def joined(address: str | None, setup: Setup, *, device: str, n_threads: int) -> Iterator[pool.RayMeasurers]:
    """The cluster at an address, until the block ends. Raises RequestError where it cannot be had or has no room."""
    pool.connect(address)
    try:
        on_gpu = pool.measures_on_gpu(device, n_threads)
        yield pool.RayMeasurers(setup, on_gpu=on_gpu, n_threads=n_threads)
    finally:
        pool.disconnect()
