"""Where the files of a requested model are."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RequestError, unknown
from harness.models.catalogue import CATALOGUE, KnownModel

if TYPE_CHECKING:
    from harness.models.request import ModelRequest

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder with a configuration and safetensors, or one GGUF file, or a Hugging Face repository.

    A repository that is whole in the local cache keeps its `repo`, and `folder` is its snapshot.
    """

    folder: Path | None = None
    gguf: Path | None = None
    repo: str | None = None
    revision: str | None = None

    @property
    def repo_id(self) -> str:
        """The Hugging Face id of a source that has one."""
        assert self.repo is not None
        return self.repo


def locate(request: "ModelRequest") -> Source:
    """Where the model's files are. Raises RequestError when the name leads nowhere."""
    if request.name in CATALOGUE:
        return _known(CATALOGUE[request.name], request)
    path = Path(request.name).expanduser()
    if path.is_dir():
        return _folder(path, request)
    if path.is_file():
        if path.suffix == ".gguf":
            return Source(gguf=path)
        raise RequestError(f"model '{request.name}' is a file: it should be a model's folder, or a .gguf file")
    if request.name.startswith(("/", ".", "~")) or request.name.count("/") > 1:
        raise RequestError(f"model '{request.name}': no such folder")
    if _HUB_ID.fullmatch(request.name):
        return _hub(request.name, request)
    raise unknown("model", request.name, CATALOGUE)


def _known(known: KnownModel, request: "ModelRequest") -> Source:
    if request.gguf_file is not None:
        raise RequestError(f"gguf_file = '{request.gguf_file}': model '{request.name}' takes none, leave it out")
    if known.repo is not None:
        return _hub(known.repo, request)
    assert known.package is not None
    _no_revision(request)
    # Found, not imported: the package that carries the file may need others that are not installed.
    spec = importlib.util.find_spec(known.package)
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(f"model '{request.name}' needs the package '{known.package}': {known.install}")
    path = Path(next(iter(spec.submodule_search_locations))) / known.path
    if not path.exists():
        raise RequestError(f"model '{request.name}': {path} is missing; reinstall the package '{known.package}'")
    return Source(gguf=path) if path.suffix == ".gguf" else Source(folder=path)


def _folder(path: Path, request: "ModelRequest") -> Source:
    _no_revision(request)
    if request.gguf_file is None:
        return Source(folder=path)
    if not (path / request.gguf_file).is_file():
        there = ", ".join(sorted(file.name for file in path.glob("*.gguf"))) or "none"
        raise RequestError(f"gguf_file = '{request.gguf_file}': {path} has no such file; GGUF files there: {there}")
    return Source(gguf=path / request.gguf_file)


def _hub(repo: str, request: "ModelRequest") -> Source:
    from harness.models import hub

    if request.gguf_file is not None:
        raise RequestError(
            f"gguf_file = '{request.gguf_file}': for a GGUF of '{repo}' download it and name the file: "
            f"hf download {repo} {request.gguf_file}"
        )
    return Source(repo=repo, revision=request.revision, folder=hub.cached_snapshot(repo, request.revision))


def _no_revision(request: "ModelRequest") -> None:
    if request.revision is not None:
        raise RequestError(
            f"revision = '{request.revision}': '{request.name}' is on this machine, "
            "only a Hugging Face id has revisions; leave it out"
        )
