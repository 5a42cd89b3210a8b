"""What a method of the catalogue does to a model, whatever the method: the embedded model under each of them."""

import json

import pytest
import torch

from harness.catalogue import build, resolve
from harness.models.generation import generate
from harness.models.loading import load
from harness.models.request import ModelRequest
from harness.models.scoring import score_segments
from harness.types import Example, Segment
from methods import CATALOGUE
from methods.longrope.methods import LongRoPE2
from methods.longrope.trained import TrainedCheckpoint
from tests.methods.longrope.training.exported import exported, factors_file
from tests.models.zoo import chunked

WINDOW = 512
LONG = 600

FACTORS = {"rescale_factors": [2.0 ** (pair / 31) for pair in range(32)], "short_factor": [1.0] * 32}

CHECKPOINT = object()

# The settings that a method cannot do without; `FACTORS` stands for a file that holds them, `CHECKPOINT` for a folder.
SETTINGS = {
    "abf": {"rope_theta": 1e6},
    "resonance": {"on": "yarn"},
    "longrope": {"factors": FACTORS, "factor": 2.0},
    "longrope2": {"factors": FACTORS, "factor": 2.0},
    "checkpoint": {"path": CHECKPOINT},
}


@pytest.fixture(scope="module")
def checkpoint(tiny_llama, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("trained")
    method = LongRoPE2(factors=factors_file(folder))
    return str(exported(folder / "out", tiny_llama, method, name="longrope2", target_length=1024))


@pytest.fixture(params=CATALOGUE)
def method(request, tmp_path):
    settings = {}
    for key, value in SETTINGS.get(request.param, {}).items():
        if value is FACTORS:
            value = tmp_path / "factors.json"
            value.write_text(json.dumps(FACTORS))
        if value is CHECKPOINT:
            value = request.getfixturevalue("checkpoint")
        settings[key] = str(value) if key == "factors" else value
    return build(resolve("method", request.param), settings, where=f"method '{request.param}'")


@pytest.fixture(scope="module")
def prompt(tiny_llama) -> list[int]:
    text = "The grass is green. The sky is blue. The number of the day is 7302945. There and back again. " * 60
    return tiny_llama.tokenizer.encode(text)


def logits(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(input_ids=torch.tensor([ids])).logits[0]


def state(model) -> dict:
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


def modules(model) -> list[tuple[str, int]]:
    return [(name, id(module)) for name, module in model.hf.named_modules()]


def test_restores_the_model_bit_for_bit(tiny_llama, method, prompt):
    before, objects, answer = state(tiny_llama), modules(tiny_llama), logits(tiny_llama, prompt[:64])
    with method.applied(tiny_llama, seq_len=LONG):
        logits(tiny_llama, prompt[:LONG])
    assert modules(tiny_llama) == objects
    assert state(tiny_llama).keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(tiny_llama).items())
    assert torch.equal(logits(tiny_llama, prompt[:64]), answer)
    assert tiny_llama.regime == "original"


def test_restores_the_model_after_an_exception(tiny_llama, method, prompt):
    objects, answer = modules(tiny_llama), logits(tiny_llama, prompt[:64])
    with pytest.raises(KeyboardInterrupt), method.applied(tiny_llama, seq_len=LONG):
        raise KeyboardInterrupt
    assert modules(tiny_llama) == objects
    assert torch.equal(logits(tiny_llama, prompt[:64]), answer)
    assert tiny_llama.regime == "original"


def test_an_answer_does_not_depend_on_what_was_asked_before(tiny_llama, method, prompt):
    def ask(seq_len: int) -> torch.Tensor:
        with method.applied(tiny_llama, seq_len=seq_len):
            return logits(tiny_llama, prompt[:300])

    alone = ask(300)
    ask(LONG)
    ask(40)
    assert torch.equal(ask(300), alone)


def test_is_the_unmodified_model_inside_the_window_where_it_says_so(tiny_llama, method, prompt):
    if not method.original_inside_window:
        pytest.skip("the method does not promise it")
    if isinstance(method, TrainedCheckpoint):
        pytest.skip("its RoPE is the unmodified model's there, its weights are others")
    expected = logits(tiny_llama, prompt[:WINDOW])
    with method.applied(tiny_llama, seq_len=WINDOW):
        assert tiny_llama.regime == "original"
        assert torch.equal(logits(tiny_llama, prompt[:WINDOW]), expected)


@pytest.fixture(scope="module", params=["auto", "sdpa", "eager", "math"])
def backend(request):
    return load(ModelRequest(name="tiny-llama", attention=request.param), device="cpu")


def test_reading_then_writing_equals_one_forward_pass(backend, method, prompt):
    tiny_llama = backend
    prompt = prompt[: LONG - 8]
    with method.applied(tiny_llama, seq_len=LONG):
        tiny_llama.eos_ids, eos_ids = frozenset(), tiny_llama.eos_ids
        try:
            written = generate(tiny_llama, prompt, max_new_tokens=8).token_ids
            with chunked(tiny_llama, 256):
                assert generate(tiny_llama, prompt, max_new_tokens=8).token_ids == written
        finally:
            tiny_llama.eos_ids = eos_ids
        whole = logits(tiny_llama, [*prompt, *written])
        segment = Segment(token_ids=[*prompt, *written], n_context=len(prompt))
        with chunked(tiny_llama, 256):
            scored = score_segments(tiny_llama, [segment])
    assert len(written) == 8
    assert tuple(whole[len(prompt) - 1 : -1].argmax(-1).tolist()) == written
    expected = whole[len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(written)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(scored.logprobs[0]), expected, atol=1e-4, rtol=0)
    assert all(scored.greedy[0])


def test_answers_an_example(tiny_llama, method, prompt):
    example = Example(id="x", prompt_ids=prompt[:LONG], max_new_tokens=4)
    with method.applied(tiny_llama, seq_len=example.n_tokens):
        output = tiny_llama.answer(example)
    assert 1 <= len(output.token_ids) <= 4
    assert output.prefill_s > 0
    assert output.decode_s > 0
    assert tiny_llama.peak_memory_bytes() > 10**8


def test_catalogue_and_settings_name_the_same_methods():
    assert SETTINGS.keys() <= CATALOGUE.keys()
