"""Fixtures of the room: the user's cache elsewhere, and the zoo, each of its models saved and loaded once."""

from collections.abc import Iterator

import pytest
import torch

from harness.models.loading import LoadedModel, load
from harness.models.request import ModelRequest
from tests.models.zoo import CONFIGS, attention, saved


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """These models are too small for a second thread to pay for its waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=CONFIGS)
def family(request, tmp_path_factory) -> Iterator[LoadedModel]:
    folder = saved(tmp_path_factory.mktemp(request.param) / request.param, CONFIGS[request.param]())
    yield load(ModelRequest(name=str(folder), attention=attention(request.param)), device="cpu")


@pytest.fixture
def ids() -> list[int]:
    return torch.randint(1, 4096, (150,), generator=torch.Generator().manual_seed(1)).tolist()
