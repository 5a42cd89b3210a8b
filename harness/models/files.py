"""The files of a model's folder, checked cheaply: headers and sizes, never the weights themselves."""

import importlib.util
import json
import math
from pathlib import Path

from harness.errors import RequestError
from harness.types import JSON

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CONFIG = ("config.json", "generation_config.json")
_VOCABULARY = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_TOKENIZER = (
    *_VOCABULARY,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_INDEX = "model.safetensors.index.json"


def read_config(folder: Path) -> dict[str, JSON]:
    """A folder's config.json. Raises RequestError."""
    if not (folder / "config.json").is_file():
        raise RequestError(f"{folder} has no config.json: it should be a folder that save_pretrained wrote")
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, JSON]:
    """A JSON object from a file. Raises RequestError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise RequestError(f"{path} should hold a JSON object, it holds {type(found).__name__}")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load: those of the index, else the single one."""
    index = folder / _INDEX
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if index.is_file():
        return sorted({folder / str(name) for name in _weight_map(index).values()})
    return []


def groups(folder: Path, *, code: bool) -> dict[str, list[Path]]:
    """A folder's files by what they are: weights, config, tokenizer, and code where it may run."""
    found = {
        "weights": weight_files(folder),
        "config": [folder / name for name in _CONFIG if (folder / name).is_file()],
        "tokenizer": [folder / name for name in _TOKENIZER if (folder / name).is_file()],
    }
    if code:
        found["code"] = sorted(folder.glob("*.py"))
    return found


def check_folder(folder: Path, *, trust_remote_code: bool) -> None:
    """Raises RequestError unless the folder holds a configuration, whole safetensors and a tokenizer."""
    config = read_config(folder)
    _check_code(folder, config, trust_remote_code)
    check_weights(folder)
    if not trust_remote_code and not has_vocabulary(folder):
        raise RequestError(f"{folder} has no tokenizer: there should be a tokenizer.json beside config.json")


def has_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer's own file is there; its settings alone make none."""
    return any((folder / name).is_file() for name in _VOCABULARY)


def check_weights(folder: Path) -> None:
    """Raises RequestError unless every safetensors file is there and as long as its header says."""
    weights = weight_files(folder)
    if not weights:
        raise RequestError(f"{folder} {_instead_of_weights(folder)}")
    tensors: dict[str, set[str]] = {}
    for path in weights:
        if not path.is_file():
            raise RequestError(f"{folder} lacks {path.name}, which {_INDEX} names: copy the folder again")
        tensors[path.name] = safetensors_keys(path)
    if weights[0].name != "model.safetensors":
        for name, file in _weight_map(folder / _INDEX).items():
            if name not in tensors[str(file)]:
                raise RequestError(f"{folder / str(file)} has no tensor '{name}', which {_INDEX} puts there")


def safetensors_keys(path: Path) -> set[str]:
    """The tensor names of a safetensors file. Raises RequestError when its header and its size disagree."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # reads the header and checks offsets, shapes and file size
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise RequestError(f"{path} is broken ({reason}): copy or download it again") from error


def n_numbers(path: Path) -> int:
    """How many numbers a safetensors file holds."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def check_gguf(path: Path) -> None:
    """Raises RequestError unless the file is a GGUF and what loads it is installed."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"{path.name} is a GGUF: loading it needs {' and '.join(missing)} (make smollm2)")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise RequestError(f"{path} is not a GGUF file: it starts with {magic!r}")


def _weight_map(index: Path) -> dict[str, JSON]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise RequestError(f"{index} has no 'weight_map' from tensor to file: copy or download it again")
    return found


def _instead_of_weights(folder: Path) -> str:
    if gguf := sorted(path.name for path in folder.glob("*.gguf")):
        return f"holds GGUF weights: name one, gguf_file = '{gguf[0]}'"
    if pickled := sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern)):
        return (
            f"has only pickled weights ({pickled[0]}), which can run code as they load: "
            "it should hold model.safetensors (save_pretrained writes it)"
        )
    return "has no weights: it should hold model.safetensors, or a GGUF file named by gguf_file"


def _check_code(folder: Path, config: dict[str, JSON], trust_remote_code: bool) -> None:
    if trust_remote_code or not config.get("auto_map"):
        return
    # Slow to import, so only for a folder that names code: many such models have a class in transformers too.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise RequestError(
            f"{folder} needs Python code of its own (auto_map in config.json): "
            "read that code, then set trust_remote_code = true"
        )
