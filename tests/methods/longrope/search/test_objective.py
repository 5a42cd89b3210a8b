"""The evaluator: losses of answers only, gradients that finite differences confirm, a model left as it was."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from harness.errors import RequestError
from harness.models import scoring
from harness.models.loading import load
from harness.models.request import ModelRequest
from harness.models.rotary import rotary_scaling
from methods.longrope.search import objective as room
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.documents import Document, Objective
from methods.longrope.search.evaluator import Ask, Draw
from methods.longrope.search.objective import NeedleEvaluator
from methods.position_interpolation import PositionInterpolation
from methods.yarn import YaRN
from tests.models.conftest import _one_thread  # noqa: F401  a fixture
from tests.models.zoo import CONFIGS, saved

LENGTH = 300


def candidate(method, rope, seq_len) -> Candidate:
    scaling = method.rope_scaling(rope, seq_len=seq_len)
    factors = tuple(scaling.rescale_factors_P(rope).tolist())
    return Candidate(rescale_factors=factors, attention_factor=scaling.attention_factor)


def uneven(n_pairs: int, **more) -> Candidate:
    """Every factor another one."""
    return Candidate(
        rescale_factors=tuple(np.linspace(1.1, 3.7, n_pairs).tolist()), **{"attention_factor": 1.2, **more}
    )


def evaluator(model, target_length=LENGTH, **settings) -> NeedleEvaluator:
    return NeedleEvaluator(model, Objective(**settings), target_length=target_length)


def ask(*candidates, n=3, seq_len=LENGTH, measure="loss", **draw) -> Ask:
    return Ask(candidates=candidates, draw=Draw(seq_len=seq_len, n_documents=n, **draw), measure=measure)


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    """A random model whose weights are float64."""
    folder = saved(tmp_path_factory.mktemp("double") / "llama", CONFIGS["llama"]())
    model = load(ModelRequest(name=str(folder)), device="cpu")
    model.hf.double()
    return model


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict:
    """Random models that differ in layout, head, sliding windows and attention."""
    names = {"cohere": "auto", "gemma2": "eager", "gemma3": "auto", "phi3": "auto"}
    return {
        name: load(
            ModelRequest(name=str(saved(tmp_path_factory.mktemp(name) / name, CONFIGS[name]())), attention=attention),
            device="cpu",
        )
        for name, attention in names.items()
    }


def scored(model, evaluator, found, documents) -> list[float]:
    """The same losses by the harness' own scoring."""
    with rotary_scaling(model, found.scaling(model.rope)):
        outputs = scoring.score_segments(model, [document.segment for document in documents])
    return [-math.fsum(logprobs) / len(logprobs) for logprobs in outputs.logprobs]


@pytest.mark.parametrize("kind", ["needle", "perplexity"])
def test_a_loss_is_the_harness_own_score_of_the_same_document(kind, tiny_llama):
    measuring = evaluator(tiny_llama, kind=kind)
    found = candidate(YaRN(), tiny_llama.rope, 1024)
    asked = ask(found)
    (measured,) = measuring.measure(asked)
    documents = measuring.documents.make(asked.draw)
    assert measured.losses == pytest.approx(scored(tiny_llama, measuring, found, documents), rel=1e-4, abs=1e-6)
    assert measured.loss == pytest.approx(np.mean(measured.losses), rel=1e-12)
    assert (min(measured.losses) > 1) == (kind == "perplexity")


def test_so_it_is_for_every_kind_of_model(families):
    for model in families.values():
        measuring, found = evaluator(model), uneven(len(model.rope.inv_freq_P), start_tokens=20)
        (measured,) = measuring.measure(ask(found))
        documents = measuring.documents.make(ask().draw)
        assert measured.losses == pytest.approx(scored(model, measuring, found, documents), rel=1e-4)


def test_only_the_answer_is_in_the_loss(tiny_llama, monkeypatch):
    """What stands before the answer is read but not scored: other scored tokens, another loss; not others, not."""
    measuring, found = evaluator(tiny_llama), candidate(YaRN(), tiny_llama.rope, 1024)
    asked = ask(found, n=1)
    (document,) = measuring.documents.make(asked.draw)
    whole = scored(tiny_llama, measuring, found, [replace(document, n_context=1)])

    def loss(changed: Document) -> float:
        measuring = evaluator(tiny_llama)
        monkeypatch.setattr(measuring.documents, "make", lambda draw: [changed])
        return measuring.measure(asked)[0].loss

    with rotary_scaling(tiny_llama, found.scaling(tiny_llama.rope)), torch.no_grad():
        logits_LV = tiny_llama.hf(torch.tensor([document.token_ids])).logits[0]
    logprobs_L = logits_LV[:-1].log_softmax(-1).gather(1, torch.tensor(document.token_ids)[1:, None])[:, 0]
    answer = -logprobs_L[document.n_context - 1 :].mean().item()
    assert loss(document) == pytest.approx(answer, rel=1e-4, abs=1e-6)
    assert loss(replace(document, n_context=1)) == pytest.approx(whole[0], rel=1e-4)
    without_first = -logprobs_L[document.n_context :].mean().item()
    assert loss(replace(document, n_context=document.n_context + 1)) == pytest.approx(without_first, rel=1e-4, abs=1e-6)


def test_of_several_questions_the_answers_alone_are_in_the_loss(tiny_llama):
    measuring, found = evaluator(tiny_llama, n_keys=3, n_asked=3), candidate(YaRN(), tiny_llama.rope, 1024)
    asked = ask(found, n=1)
    (document,) = measuring.documents.make(asked.draw)
    with rotary_scaling(tiny_llama, found.scaling(tiny_llama.rope)), torch.no_grad():
        logits_LV = tiny_llama.hf(torch.tensor([document.token_ids])).logits[0]
    logprobs_L = logits_LV[:-1].log_softmax(-1).gather(1, torch.tensor(document.token_ids)[1:, None])[:, 0]
    (_, first), (_, second) = document.questions
    begins, ends = (document.n_context, first, second), (*(q for q, _ in document.questions), len(document.token_ids))
    answers = torch.cat([logprobs_L[begin - 1 : end - 1] for begin, end in zip(begins, ends, strict=True)])
    assert measuring.measure(asked)[0].loss == pytest.approx(-answers.mean().item(), rel=1e-4, abs=1e-6)


def test_yarn_finds_beyond_the_window_what_interpolation_does_not(tiny_llama):
    measuring, rope = evaluator(tiny_llama, 1024, n_keys=2), tiny_llama.rope
    yarn, pi = (candidate(method, rope, 1024) for method in (YaRN(), PositionInterpolation()))
    found = measuring.measure(ask(yarn, pi, n=2, seq_len=1024))
    assert found[0].loss < 0.1 < 1 < found[1].loss


def test_the_same_ask_gives_the_same_bits_and_batches_change_nothing_but_noise(tiny_llama):
    found = candidate(YaRN(), tiny_llama.rope, 4096), uneven(32)
    one = evaluator(tiny_llama)
    first, again, fresh = one.measure(ask(*found)), one.measure(ask(*found)), evaluator(tiny_llama).measure(ask(*found))
    assert [m.losses for m in first] == [m.losses for m in again] == [m.losses for m in fresh]
    (graded,) = one.measure(ask(found[1], measure="gradient"))
    assert graded.losses == first[1].losses
    for batch_tokens in (1, 2 * LENGTH):
        batched = evaluator(tiny_llama, batch_tokens=batch_tokens).measure(ask(*found))
        for a, b in zip(batched, first, strict=True):
            assert a.losses == pytest.approx(b.losses, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("start_tokens", [0, 40])
def test_the_gradient_is_the_slope_that_finite_differences_find(double, start_tokens):
    # Noise is the same text in any Python; on these documents no slope is so small that rounding is a part of it.
    objective = Objective(checkpointing=start_tokens > 0, haystacks=("noise",))
    measuring = NeedleEvaluator(double, objective, target_length=LENGTH, seed=1)
    base = uneven(len(double.rope.inv_freq_P), start_tokens=start_tokens)
    log_P = np.log(base.rescale_factors)
    (measured,) = measuring.measure(ask(base, measure="gradient"))
    # The faster a pair turns, the shorter the step along which its loss is straight.
    steps = [*np.minimum(3e-5 / double.rope.inv_freq_P, 1e-3), 1e-3]
    moved = []
    for pair in range(len(log_P)):
        for sign in (1, -1):
            factors_P = np.exp(log_P + sign * steps[pair] * (np.arange(len(log_P)) == pair))
            moved.append(replace(base, rescale_factors=tuple(factors_P.tolist())))
    moved += [replace(base, attention_factor=base.attention_factor * math.exp(sign * 1e-3)) for sign in (1, -1)]
    losses = [m.loss for m in measuring.measure(ask(*moved))]
    slopes = [(up - down) / (2 * h) for up, down, h in zip(losses[::2], losses[1::2], steps, strict=True)]
    found = [*measured.gradient.log_rescale_factors_P, measured.gradient.log_attention_factor]
    assert np.abs(found).min() > 1e-3  # nothing is compared with zero
    np.testing.assert_allclose(found, slopes, rtol=0.03)


def test_checkpointing_changes_the_price_and_not_the_gradient(families, tiny_llama):
    for model in (tiny_llama, *families.values()):
        found = uneven(len(model.rope.inv_freq_P))
        kept, again = (evaluator(model, checkpointing=on) for on in (False, True))
        assert (kept.unit.gradient_passes, again.unit.gradient_passes) == (3, 4)
        (a,), (b,) = (e.measure(ask(found, n=2, measure="gradient")) for e in (kept, again))
        assert a.losses == b.losses
        np.testing.assert_allclose(
            a.gradient.log_rescale_factors_P, b.gradient.log_rescale_factors_P, rtol=1e-4, atol=1e-6
        )
        assert a.gradient.log_attention_factor == pytest.approx(b.gradient.log_attention_factor, rel=1e-4)
    assert evaluator(tiny_llama).unit.gradient_passes == 3
    assert evaluator(tiny_llama, n_documents=5).unit.n_tokens == 5 * LENGTH


def test_the_model_is_left_as_it_was(tiny_llama):
    hf = tiny_llama.hf
    weights = list(hf.parameters())
    weights[3].requires_grad_(False)
    asked = [weight.requires_grad for weight in weights]
    rotary = tiny_llama.sites[0].module
    try:
        evaluator(tiny_llama, checkpointing=True).measure(ask(uneven(32), measure="gradient"))
        assert [weight.requires_grad for weight in weights] == asked
        assert all(weight.grad is None for weight in weights)
        assert tiny_llama.scaling is None and tiny_llama.sites[0].module is rotary
        assert not [module for module in hf.modules() if "forward" in vars(module)]
    finally:
        weights[3].requires_grad_(True)


def test_perplexity_is_read_block_by_block(tiny_llama, monkeypatch):
    """The gradient too: no more logits are held than a block has."""
    found = uneven(32)
    before = [
        evaluator(tiny_llama, kind="perplexity").measure(ask(found, n=2, measure=measure))[0]
        for measure in ("loss", "gradient")
    ]
    seen = []
    head = room.head
    monkeypatch.setattr(room, "_BLOCK_LOGITS", 4096 * 64)
    monkeypatch.setattr(room, "head", lambda model, hidden: seen.append(len(hidden)) or head(model, hidden))
    after = [
        evaluator(tiny_llama, kind="perplexity").measure(ask(found, n=2, measure=measure))[0]
        for measure in ("loss", "gradient")
    ]
    assert max(seen) == 64 and sum(seen) == 3 * 2 * (LENGTH - 1)  # forward, forward, and once more in backward
    for a, b in zip(before, after, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
    np.testing.assert_allclose(
        before[1].gradient.log_rescale_factors_P, after[1].gradient.log_rescale_factors_P, rtol=1e-3, atol=1e-6
    )


def test_short_loss_is_of_plain_text_whatever_the_objective(tiny_llama):
    found, original = candidate(YaRN(), tiny_llama.rope, 4096), Candidate(rescale_factors=(1.0,) * 32)
    asked = ask(found, original, n=32, seq_len=256, measure="short_loss")
    measuring = evaluator(tiny_llama, 1024, haystacks=("noise",))
    short, plain = measuring.measure(asked)
    assert 1 < plain.loss < short.loss < 10  # nats a token of prose
    with pytest.raises(RequestError, match=r"short_loss of 513 tokens.*window of 512"):
        measuring.measure(ask(found, seq_len=513, measure="short_loss"))


def test_numbers_that_are_not_finite_end_their_candidate_alone(tiny_llama):
    good = candidate(YaRN(), tiny_llama.rope, 1024)
    bad = replace(good, attention_factor=1e30), replace(good, attention_factor=math.nan)
    for measure in ("loss", "gradient"):
        before, *failed, after = evaluator(tiny_llama).measure(ask(good, *bad, good, measure=measure))
        assert all(m.failed and m.gradient is None for m in failed)
        assert before.losses == after.losses and not before.failed


class Scarce:
    """A base model that runs out of memory above so many tokens."""

    def __init__(self, model, monkeypatch, most: int) -> None:
        base = type(model.hf.base_model)
        forward, self.read = base.forward, []

        def limited(hf, **options):
            self.read.append(options["input_ids"].numel())
            if options["input_ids"].numel() > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(hf, **options)

        monkeypatch.setattr(base, "forward", limited)


@pytest.mark.parametrize("measure", ["loss", "gradient"])
def test_out_of_memory_reads_fewer_documents_at_once(tiny_llama, monkeypatch, measure):
    asked = ask(uneven(32), n=4, measure=measure)
    (expected,) = evaluator(tiny_llama, batch_tokens=LENGTH).measure(asked)
    model, measuring = tiny_llama, evaluator(tiny_llama, batch_tokens=5 * LENGTH)
    with monkeypatch.context() as patched:
        scarce = Scarce(model, patched, most=2 * LENGTH)
        (found,) = measuring.measure(asked)
        measuring.measure(asked)  # it does not try again what did not fit
    assert [n // (LENGTH - 1) for n in scarce.read] == [4, 2, 2, 2, 2]
    assert found.losses == pytest.approx(expected.losses, rel=1e-4)
    if measure == "gradient":
        got, wanted = found.gradient.log_rescale_factors_P, expected.gradient.log_rescale_factors_P
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-6)


def test_a_document_that_never_fits_names_the_knob(tiny_llama, monkeypatch):
    Scarce(tiny_llama, monkeypatch, most=10)
    for settings, measure, message in (
        ({}, "loss", "one document of 300 tokens does not fit .*: a shorter target_length"),
        ({}, "gradient", r"checkpointing = true under \[objective\]"),
        ({"checkpointing": True}, "gradient", "a shorter target_length"),
    ):
        with pytest.raises(RequestError, match=message):
            evaluator(tiny_llama, **settings).measure(ask(uneven(32), measure=measure))
    assert tiny_llama.scaling is None


def test_a_model_without_layers_to_checkpoint_is_refused():
    class Bare(torch.nn.Module):
        pass

    with pytest.raises(RequestError, match="Bare has no layers to checkpoint"):
        room._layers(Bare())
    assert room._layers(GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)))
