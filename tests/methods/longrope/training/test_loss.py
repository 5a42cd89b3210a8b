"""The loss without logits, and a segment's loss under either kind of attention."""

import dataclasses
import itertools
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from harness.errors import RequestError
from methods.longrope.training.loss import check_liger, chunked_loss, liger_loss
from methods.longrope.training.regimes import Regimes
from methods.longrope.training.segments import TrainingSegment
from methods.longrope.training.step import SegmentLoss, recompute_layers, tensors
from tests.methods.longrope.training.corpora import TARGET, WINDOW
from tests.methods.longrope.training.small import N_TOKENS, loaded, model_folder, rescaled


def plain(head, hidden, labels, weights):
    losses = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="none")
    return (losses * weights).sum()


@pytest.mark.parametrize("chunk", [1, 7, 20, 64])
@pytest.mark.parametrize("bias", [False, True])
def test_the_loss_in_chunks_is_the_plain_one_gradients_too(chunk, bias):
    torch.manual_seed(1)
    linear = torch.nn.Linear(8, 30, bias=bias, dtype=torch.float64)
    hidden = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 30, (20,))
    weights = torch.rand(20, dtype=torch.float64) * 10
    weights[[3, 4, 19]] = 0  # the ends of documents
    wanted = plain(linear, hidden, labels, weights)
    inputs = [hidden, *linear.parameters()]
    wanted_grads = torch.autograd.grad(wanted / 7, inputs)
    found = chunked_loss(linear, list(linear.parameters()), hidden, labels, weights, chunk)
    grads = torch.autograd.grad(found / 7, inputs)
    assert torch.allclose(found, wanted, rtol=1e-14)
    for a, b in zip(grads, wanted_grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_a_place_without_weight_changes_nothing_whatever_its_label_is():
    torch.manual_seed(1)
    linear = torch.nn.Linear(8, 30, dtype=torch.float64)
    hidden = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0, 2, 0, 1, 0])
    losses = [
        chunked_loss(linear, list(linear.parameters()), hidden, torch.tensor(labels), weights, 4)
        for labels in ([1, 2, 3, 4, 5, 0], [1, 9, 3, 8, 5, 7])
    ]
    grads = [torch.autograd.grad(loss, hidden)[0] for loss in losses]
    assert losses[0] == losses[1]
    assert torch.equal(*grads)
    assert not grads[0][1].any()


def test_the_loss_never_holds_logits_of_all_places():
    seen = []

    def head(hidden):
        seen.append(len(hidden))
        return linear(hidden)

    linear = torch.nn.Linear(4, 11)
    hidden = torch.randn(100, 4, requires_grad=True)
    loss = chunked_loss(
        head, list(linear.parameters()), hidden, torch.zeros(100, dtype=torch.long), torch.ones(100), 32
    )
    loss.backward()
    assert seen == [32, 32, 32, 4]  # once each: nothing is computed again


def test_bfloat16_keeps_the_sum_of_the_heads_gradient_in_float32():
    torch.manual_seed(0)
    exact = torch.nn.Linear(16, 50, bias=False).bfloat16()
    hidden = torch.randn(4096, 16).bfloat16().requires_grad_()
    labels, weights = torch.randint(0, 50, (4096,)), torch.ones(4096)
    loss = chunked_loss(exact, [exact.weight], hidden, labels, weights, 16)
    (grad,) = torch.autograd.grad(loss, exact.weight)
    assert loss.dtype == torch.float32 and grad.dtype == torch.bfloat16
    wide = exact.weight.float().requires_grad_()
    (wanted,) = torch.autograd.grad(plain(lambda h: h @ wide.T, hidden.float(), labels, weights), wide)
    assert (grad.float() - wanted).norm() / wanted.norm() < 0.01


def test_liger_is_refused_in_one_line_without_a_gpu(tmp_path):
    model = loaded(model_folder(tmp_path / "m"))
    with pytest.raises(RequestError, match="loss = 'liger' needs a GPU, this device is cpu") as caught:
        check_liger(model.hf, torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_ligers_kernel_is_run_once_for_every_weight_and_gives_the_same_sum(monkeypatch):
    """It knows no weight a token. Its place is taken by PyTorch's loss: the kernel itself needs a GPU."""

    class Summed:
        def __init__(self, *, reduction, accum_dtype):
            assert (reduction, accum_dtype) == ("sum", torch.float32)

        def __call__(self, weight, hidden, labels, bias):
            logits = torch.nn.functional.linear(hidden, weight, bias)
            return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    package, module = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    module.LigerFusedLinearCrossEntropyLoss = Summed
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", module)
    torch.manual_seed(1)
    linear = torch.nn.Linear(8, 30, dtype=torch.float64)
    hidden = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    labels, weights = torch.randint(0, 30, (30,)), torch.tensor([0.0, 1.0, 10.0]).repeat(10)
    inputs = [hidden, *linear.parameters()]
    wanted, found = plain(linear, hidden, labels, weights), liger_loss(linear, hidden, labels, weights)
    assert torch.allclose(found, wanted)
    pairs = zip(torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True)
    assert all(torch.allclose(a, b) for a, b in pairs)
    assert liger_loss(linear, hidden, labels, torch.zeros(30)).requires_grad  # a process with nothing left to read


# Segments


def packed(lengths, regime="original", seed=0):
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    starts = np.cumsum([0, *lengths])
    weights = rng.integers(1, 10, n).astype(np.float32)
    weights[starts[:-1]] = 0
    return TrainingSegment(
        input_ids_L=rng.integers(2, N_TOKENS, n),
        position_ids_L=np.concatenate([np.arange(length) for length in lengths]),
        cu_seqlens=starts.astype(np.int32),
        loss_weights_L=weights,
        regime=regime,
        bin="b",
    )


def alone(segment, start, stop):
    return dataclasses.replace(
        segment,
        input_ids_L=segment.input_ids_L[start:stop],
        position_ids_L=segment.position_ids_L[start:stop],
        loss_weights_L=segment.loss_weights_L[start:stop],
        cu_seqlens=None,
    )


def loss_and_gradient(model, regimes, segment, *, checkpointing=False):
    module = SegmentLoss(model.hf, loss_chunk=10)
    model.hf.train()
    if checkpointing:
        recompute_layers(model.hf, True)
    with regimes.pinned(regimes.of(segment)):
        loss = module(**tensors(segment, model.device))
        loss.backward()
    grads = {name: p.grad.clone() for name, p in model.hf.named_parameters()}
    model.hf.zero_grad()
    recompute_layers(model.hf, False)
    return loss.detach(), grads


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
def test_packed_documents_are_read_as_if_each_were_alone(tmp_path, attention):
    model = loaded(model_folder(tmp_path / "m"), attention=attention)
    regimes = Regimes(model, rescaled(model), short_rope="original")
    segment = packed([5, 12, 1, 16, 7])
    loss, grads = loss_and_gradient(model, regimes, segment)
    edges = segment.cu_seqlens.tolist()
    parts = [loss_and_gradient(model, regimes, alone(segment, a, b)) for a, b in itertools.pairwise(edges)]
    assert torch.allclose(loss, sum(part for part, _ in parts), rtol=1e-5)
    for name, grad in grads.items():
        assert torch.allclose(grad, sum(g[name] for _, g in parts), rtol=1e-4, atol=1e-4 * grad.abs().max()), name


def test_packed_documents_need_no_mask(tmp_path, monkeypatch):
    """A mask of a segment of 131072 tokens would fill 16 GiB."""
    from harness.models import attention

    model = loaded(model_folder(tmp_path / "m"))
    regimes = Regimes(model, rescaled(model), short_rope="original")
    wanted, _ = loss_and_gradient(model, regimes, packed([5, 12, 7]))
    monkeypatch.setattr(attention, "sdpa_mask", None)
    loss, _ = loss_and_gradient(model, regimes, packed([5, 12, 7]))
    assert loss == wanted


def by_transformers(model, segment, scaling):
    """The loss by transformers' eager attention, its own rotary embedding given our frequencies, and a dense mask."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(model.request.name, attn_implementation="eager")
    hf.model.rotary_emb.inv_freq = torch.tensor(scaling.inv_freq_P, dtype=torch.float32)
    hf.model.rotary_emb.attention_scaling = scaling.attention_factor
    ids, positions = torch.tensor(segment.input_ids_L)[None], torch.tensor(segment.position_ids_L)[None]
    documents = torch.tensor(segment.document_ids_L)
    seen = (documents[:, None] == documents[None]).tril()
    mask = torch.where(seen, 0.0, float("-inf"))[None, None]
    logits = hf(input_ids=ids, position_ids=positions, attention_mask=mask).logits[0]
    labels, weights = (torch.tensor(part) for part in segment.targets())
    return plain(lambda x: x, logits, labels, weights)


def own(model):
    return model.rope.rescaled(1.0)


@pytest.mark.parametrize(
    ("segment", "short_rope", "scaling"),
    [
        (packed([6, 10, 16]), "original", own),
        (packed([6, 10, 16]), "rescaled", rescaled),
        (packed([20, 44], regime="rescaled"), "original", rescaled),
        (alone(packed([TARGET], regime="rescaled"), 0, TARGET), "original", rescaled),
        # The regime is the segment's own: a short one may stand under the rescaled RoPE, and a long one be read under
        # the original.
        (alone(packed([5], regime="rescaled"), 0, 5), "original", rescaled),
        (alone(packed([TARGET]), 0, TARGET), "original", own),
    ],
    ids=["short", "no mixing", "long, masked", "long", "regime, not length", "regime, not positions"],
)
def test_a_segment_is_read_under_its_regimes_rope(tmp_path, segment, short_rope, scaling):
    model = loaded(model_folder(tmp_path / "m"))
    regimes = Regimes(model, rescaled(model), short_rope=short_rope)
    loss, _ = loss_and_gradient(model, regimes, segment)
    assert torch.allclose(loss, by_transformers(model, segment, scaling(model)), rtol=1e-5)
    other = rescaled if scaling is own else own
    if segment.n_tokens > 5:
        assert not torch.allclose(loss, by_transformers(model, segment, other(model)), rtol=1e-4)


def test_positions_that_skip_are_no_border_of_a_document(tmp_path):
    model = loaded(model_folder(tmp_path / "m"))
    regimes = Regimes(model, rescaled(model), short_rope="original")
    bare = alone(packed([WINDOW], regime="rescaled"), 0, WINDOW)
    positions = np.arange(WINDOW) + np.where(np.arange(WINDOW) >= 6, 30, 0)
    segment = dataclasses.replace(bare, position_ids_L=positions, skips_positions=True)
    loss, _ = loss_and_gradient(model, regimes, segment)
    assert torch.allclose(loss, by_transformers(model, segment, rescaled(model)), rtol=1e-5)


@pytest.mark.parametrize("segment", [packed([6, 10, 16]), alone(packed([48], regime="rescaled"), 0, 48)])
def test_layers_that_are_computed_again_have_the_same_gradient(tmp_path, segment):
    model = loaded(model_folder(tmp_path / "m"))
    regimes = Regimes(model, rescaled(model), short_rope="original")
    loss, grads = loss_and_gradient(model, regimes, segment)
    again, grads_again = loss_and_gradient(model, regimes, segment, checkpointing=True)
    assert loss == again
    for name, grad in grads.items():
        assert torch.equal(grad, grads_again[name]), name


def test_the_model_has_its_own_rope_back_after_a_pass(tmp_path):
    model = loaded(model_folder(tmp_path / "m"))
    before = [site.module for site in model.sites]
    regimes = Regimes(model, rescaled(model), short_rope="original")
    with pytest.raises(KeyError), regimes.pinned("rescaled"):
        assert [site.module for site in model.sites] != before
        raise KeyError
    assert [site.module for site in model.sites] == before
