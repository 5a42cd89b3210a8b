"""A model over several GPUs: no tensor meets one of another device, the answers stay, and what cannot be is said.

Where there is no second GPU, tensors without contents stand in: PyTorch refuses to mix their devices as real ones.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.errors import RequestError
from harness.models import memory, spreading
from harness.models.attention import Attending, attending
from harness.models.decoding import Decoder
from harness.models.forward import cache_for, read
from harness.models.generation import Request, generate_each
from harness.models.loading import load
from harness.models.request import ModelRequest
from harness.models.rotary import rotary_scaling
from harness.plan import RunSettings
from methods.yarn import YaRN

PROMPTS = [list(range(5, 45)), list(range(50, 70))]


def answers(model):
    """The tokens behind each prompt, both written at once."""
    requests = [Request(prompt_ids=ids, max_new_tokens=12) for ids in PROMPTS]
    return {place: output.token_ids for place, output in generate_each(model, requests, n_rows=2)}


def tiny(attention="eager"):
    return load(ModelRequest(name="tiny-llama", attention=attention), device="cpu")


@pytest.fixture
def two_devices(monkeypatch):
    """A model of fake tensors, two of its layers on each of two devices."""
    model, made = tiny(), {}
    assert model.can_batch and model.kv_bytes_per_token  # measured, which fake tensors cannot be

    def to(module, home):
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    # By the parameter: tied ones stay tied.
                    if parameter not in made:
                        made[parameter] = nn.Parameter(torch.empty(parameter.shape, device=home), requires_grad=False)
                    part._parameters[name] = made[parameter]
        return module

    with FakeTensorMode(allow_non_fake_inputs=True):
        with monkeypatch.context() as patched:
            patched.setattr(nn.Module, "to", to)
            model.devices = (torch.device("cpu"), torch.device("cpu", 1))
            spreading.place(model.hf, model.devices)
        model.limits.graphs = False
        yield model


def read_and_write(model):
    """The devices of the logits after a prompt in chunks, after one more token a row, and of the keys."""
    model.limits.chunk = 16
    with torch.no_grad(), attending(), cache_for(model, 2, 64) as cache:
        logits_RV = read(model, cache, slice(0, 2), PROMPTS)
        decoder = Decoder(model, cache, Attending(), max_new_tokens=4)
        more_RV = decoder._forward(torch.zeros(2, 1, dtype=torch.long), torch.tensor([40, 20]), 41, True)
        return logits_RV.device, more_RV.device, [layer.keys_RHSD.device.index for layer in cache._layers]


def test_what_a_layer_is_given_follows_it(two_devices):
    yarn = YaRN(factor=4.0).rope_scaling(two_devices.rope, seq_len=2048)
    with rotary_scaling(two_devices, yarn):
        logits, more, keys = read_and_write(two_devices)
    assert (logits.index, more.index) == (None, None)
    assert keys == [None, None, 1, 1]


def test_without_that_devices_would_mix(two_devices, monkeypatch):
    monkeypatch.setattr(spreading, "_moved", lambda given, home: given)
    with pytest.raises(RuntimeError, match="same device"):
        read_and_write(two_devices)


def test_a_spread_model_answers_as_it_did():
    model = tiny("auto")
    expected = answers(model)
    spreading.place(model.hf, [torch.device("cpu")] * 3)
    assert answers(model) == expected


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_answer_as_one():
    request = ModelRequest(name="tiny-llama", attention="sdpa", dtype="float32")
    one, two = (load(request, device="cuda", n_devices=n) for n in (1, 2))
    assert {parameter.device.index for parameter in two.hf.parameters()} == {0, 1}
    assert answers(two) == answers(one)


@pytest.mark.parametrize(
    ("device", "n", "says"),
    [
        ("cuda", 3, r"\[run\] gpus = 3: here are 2"),
        (
            "cuda:1",
            2,
            r"\[run\] gpus = 2 takes the first 2 GPUs it sees, not 'cuda:1': device should be cuda, and CUDA_V",
        ),
    ],
)
def test_gpus_that_are_not_there(device, n, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RequestError, match=says):
        spreading.devices_from(torch.device(device), n)
    assert len(spreading.devices_from(torch.device("cuda"), 2)) == 2


def test_a_processor_is_one_device():
    assert spreading.devices_from(torch.device("cpu"), 4) == (torch.device("cpu"),)


def test_more_gpus_than_layers():
    with pytest.raises(RequestError, match=r"\[run\] gpus = 5: the model has 4 layers"):
        spreading.place(tiny().hf, [torch.device("cpu")] * 5)


@pytest.mark.parametrize("gpus", [1.5, -1.0, 2.25])
def test_half_a_gpu_more_is_refused(gpus):
    with pytest.raises(ValueError, match=f"gpus = {gpus:g}: it should be 0, a part such as 0.5, or a whole number"):
        RunSettings(gpus=gpus)
    assert [RunSettings(gpus=n).n_devices for n in (None, 0.0, 0.5, 1.0, 4.0)] == [1, 1, 1, 1, 4]


def test_weights_must_fit_an_equal_part_on_each_gpu(monkeypatch):
    free = {0: 30 * 10**9, 1: 20 * 10**9}
    monkeypatch.setattr(memory, "_gpu_bytes", lambda device: free[device.index])
    both = [torch.device("cuda", 0), torch.device("cuda", 1)]
    memory.check_weights_fit("m", 40 * 10**9, *both)
    with pytest.raises(
        RequestError, match=r"its weights fill 41.0 GB, 2 GPUs together have 40.0 GB free: .* more GPUs"
    ):
        memory.check_weights_fit("m", 41 * 10**9, *both)
