"""What a training step makes on its way grows with the length of the segment: no tensor is quadratic in it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods.longrope.training import processes
from methods.longrope.training.bins import Bin
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.loop import Training
from methods.longrope.training.mix import Mix
from methods.longrope.training.settings import Silent, TrainingSettings
from methods.longrope.training.shards import write_shards
from methods.longrope.training.sources import Document
from tests.methods.longrope.training.corpora import WINDOW, tokenizer
from tests.methods.longrope.training.small import N_TOKENS, loaded, model_folder, rescaled

LENGTH, WIDEST, N_LAYERS, N_HEADS = 512, 64, 2, 4  # of the small model; its widest layer is the feed-forward's
FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
FULL = Bin(name="full", kind="long", share=1)
SHORT = Bin(name="short", kind="short", share=1, max_length="window")
POSE = Bin(name="pose", kind="pose", share=1, above_length=LENGTH)


@dataclass(frozen=True)
class Documents:
    """So many documents of so many tokens."""

    n_documents: int
    n_tokens: int

    def identity(self):
        return [self.n_documents, self.n_tokens]

    def documents(self, tokenizer, start=0):
        ids = np.arange(self.n_tokens) % (N_TOKENS - 10) + 10
        yield from [Document(ids)] * (self.n_documents - start)


class Watch(TorchDispatchMode):
    """Every operation, forward and backward, by name, with the elements of the largest tensor it gave back."""

    def __init__(self):
        super().__init__()
        self.ran: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves(found) if isinstance(one, torch.Tensor)]
        # What is really there: an expanded view has as few as what it views.
        sizes = [tensor.untyped_storage().nbytes() // tensor.itemsize for tensor in tensors]
        self.ran.append((func.name(), max(sizes, default=0)))
        return found

    @property
    def most(self) -> int:
        return max(size for _, size in self.ran)


def watched(
    folder: Path, seq_len: int = LENGTH, bin: Bin = FULL, *, mask: bool = False, chunk=None, **request
) -> Watch:
    """One step of a training on one segment."""
    settings = TrainingSettings(batch_tokens=seq_len, loss_chunk=chunk or seq_len // 8)
    source = Documents(100, WINDOW - 2) if mask or bin.kind == "short" else Documents(1, 2 * seq_len)
    write_shards(source, tokenizer(N_TOKENS), folder / f"shards-{seq_len}")
    corpus = Corpus.open({"documents": folder / f"shards-{seq_len}"}, tokenizer(N_TOKENS))
    mix = Mix(bins=(bin,), total_tokens=seq_len, document_mask=mask, segment_length=seq_len)
    model = loaded(model_folder(folder / "m"), **request)
    training = Training.begin(
        model, rescaled(model), mix.plan(corpus, window=WINDOW, target=2 * seq_len), settings, folder, 0,
        processes.start(settings, device="cpu", folder=folder), Silent(),
    )  # fmt: skip
    with Watch() as watch:
        training.step(0)
    return watch


def test_a_step_on_twice_the_tokens_runs_the_same_operations_on_at_most_twice_as_much(tmp_path):
    one, two = (watched(tmp_path / str(n), n).ran for n in (LENGTH, 2 * LENGTH))
    assert [name for name, _ in two] == [name for name, _ in one]
    assert all(more <= 2 * size for (_, more), (_, size) in zip(two, one, strict=True))


@pytest.mark.parametrize(
    ("bin", "mask"), [(FULL, False), (FULL, True), (SHORT, False), (POSE, False)],
    ids=["long", "long, inside documents", "short", "pose"],
)  # fmt: skip
def test_no_tensor_is_wider_than_the_feed_forward_layer_of_all_tokens(tmp_path, bin, mask):
    watch = watched(tmp_path, bin=bin, mask=mask)
    assert watch.most == LENGTH * WIDEST  # logits would be N_TOKENS wide, a mask or scores LENGTH and more


def test_backward_is_watched_too_and_layers_are_computed_again(tmp_path):
    names = [name for name, _ in watched(tmp_path).ran]
    assert names.count(FLASH) == 2 * N_LAYERS
    assert names.count(f"{FLASH}_backward") == N_LAYERS


def test_the_watch_sees_scores_and_logits_where_they_are_made(tmp_path):
    assert watched(tmp_path / "scores", attention="math").most >= N_HEADS * LENGTH**2
    assert watched(tmp_path / "logits", chunk=LENGTH).most == LENGTH * N_TOKENS
