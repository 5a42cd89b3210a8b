"""Models of the Hugging Face Hub: what the local cache holds, and what the Hub says of a repository."""

import re
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.models.files import check_weights, has_vocabulary, weight_files
from harness.models.hashes import combined, file_sha256

_TIMEOUT_S = 10
_WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def cached_file(repo: str, name: str, revision: str | None) -> Path | None:
    """A file of the repository in the local cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The folder of the repository in the local cache, or None where the weights or the tokenizer are not there."""
    config = cached_file(repo, "config.json", revision)
    if config is None:
        return None
    try:
        check_weights(config.parent)
    except RequestError:
        return None
    return config.parent if has_vocabulary(config.parent) else None


def check_available(repo: str, revision: str | None) -> None:
    """Raises RequestError when a repository that is not cached cannot be fetched, or has no safetensors."""
    info = _ask(repo, revision)
    if not _weights(info):
        raise RequestError(f"model '{repo}' has no safetensors weights on Hugging Face: only those are loaded")


def identity(repo: str, revision: str | None) -> dict[str, str]:
    """The commit, and the hash of the weights as the cache or the Hub knows it: no large file is read."""
    folder = cached_snapshot(repo, revision)
    if folder is not None:
        digests = {path.name: _blob_sha256(path) for path in weight_files(folder)}
        return {"commit": folder.name, "weights": combined(digests)}
    info = _ask(repo, revision)
    return {"commit": info.sha, "weights": combined(_weights(info))}


def read_file(repo: str, name: str, revision: str | None) -> Path:
    """A small file of the repository, fetched where it is not cached. Raises RequestError."""
    found = cached_file(repo, name, revision)
    if found is not None:
        return found
    from huggingface_hub import hf_hub_download

    _ask(repo, revision)  # fails at once where a download would try again and again
    try:
        return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=_TIMEOUT_S))
    except Exception as error:
        raise _unreachable(repo, revision, error) from error


def fetch(repo: str, revision: str | None, *, code: bool) -> Path:
    """The folder of the repository, downloaded where it is not in the cache. Raises RequestError."""
    found = cached_snapshot(repo, revision)
    if found is not None:
        return found
    from huggingface_hub import snapshot_download

    wanted = [*_WANTED, "*.py"] if code else _WANTED
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, etag_timeout=_TIMEOUT_S))
    except Exception as error:
        raise _unreachable(repo, revision, error) from error


def _ask(repo: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
    except Exception as error:  # the client raises its own, httpx's and the system's errors
        raise _unreachable(repo, revision, error) from error


def _unreachable(repo: str, revision: str | None, error: Exception) -> RequestError:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return RequestError(f"model '{repo}' is gated: accept its licence on the Hugging Face Hub, then hf auth login")
    if isinstance(error, RevisionNotFoundError):
        return RequestError(f"revision = '{revision}': '{repo}' has no such branch, tag or commit")
    if isinstance(error, RepositoryNotFoundError):
        return RequestError(f"model '{repo}' is not on Hugging Face, or is private: hf auth login")
    at = f" --revision {revision}" if revision else ""
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the Hugging Face Hub: {type(error).__name__}"
    return RequestError(
        f"model '{repo}' is not whole in {constants.HF_HUB_CACHE} and cannot be fetched ({why}): "
        f"run `hf download {repo}{at}` where there is a network and copy its folder there, or name a local folder"
    )


def _weights(info: Any) -> dict[str, str]:
    """File -> sha256 of the safetensors that transformers would load from a repository."""
    found = {
        file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs and _WEIGHTS.fullmatch(file.rfilename)
    }
    single = "model.safetensors"
    return {single: found[single]} if single in found else found


def _blob_sha256(path: Path) -> str:
    """The cache names a large file's blob by its sha256."""
    blob = path.resolve().name
    return blob if _SHA256.fullmatch(blob) else file_sha256(path)
