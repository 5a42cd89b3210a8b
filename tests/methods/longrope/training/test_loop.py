"""The loop: what a step does, what it says, and what stops it."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from harness.errors import RequestError
from methods.longrope.training import accumulation
from methods.longrope.training.batches import Batches
from methods.longrope.training.loop import fit, load_for_training
from methods.longrope.training.optimizer import learning_rate
from methods.longrope.training.settings import TrainingSettings
from methods.longrope.training.weights import MasterWeights
from tests.methods.longrope.training.corpora import LONG, SHORT, TARGET
from tests.methods.longrope.training.small import loaded, model_folder, rescaled, small_mix, with_epochs

SETTINGS = TrainingSettings(
    batch_tokens=2 * TARGET, learning_rate=1e-2, warmup_steps=2, activation_checkpointing=False, loss_chunk=50
)


class Followed:
    def __init__(self):
        self.lines, self.reports, self.places = [], [], []

    def says(self, line):
        self.lines.append(line)

    def stepped(self, report):
        self.reports.append(report)

    def saved(self, folder):
        self.places.append(folder)


def mixed(folder, **settings):
    return small_mix(folder, with_epochs(SHORT), with_epochs(LONG), **settings)


def trained(tmp_path, settings=SETTINGS, *, mix=None, name="run", model=None, **given):
    model = model or loaded(model_folder(tmp_path / "m"))
    mix = mix or mixed(tmp_path)
    return fit(model, rescaled(model), mix, settings, folder=tmp_path / name, **given)


def plain_loop(model, mix, settings, n_steps):
    """The same training written down a second time: whole logits, one graph a batch, torch's own schedule."""
    from methods.longrope.training.regimes import Regimes
    from methods.longrope.training.step import tensors

    regimes = Regimes(model, rescaled(model), short_rope="original")
    optimizer = torch.optim.AdamW(
        model.hf.parameters(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
    )
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / settings.warmup_steps, 1.0, settings.warmup_steps - 1)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps - settings.warmup_steps)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, falling], [settings.warmup_steps])
    losses = []
    for step in range(n_steps):
        total, n = 0, 0
        for segment in mix[2 * step : 2 * step + 2]:
            given = tensors(segment, model.device)
            labels, weights = given.pop("labels_L"), given.pop("weights_L")
            packing = {key: given.pop(key) for key in list(given) if key.startswith(("cu_", "max_"))}
            with regimes.pinned(segment.regime):
                if packing:
                    edges = packing["cu_seq_lens_q"].tolist()
                    logits = torch.cat(
                        [
                            model.hf(**{key: part[:, a:b] for key, part in given.items()}).logits[0]
                            for a, b in itertools.pairwise(edges)
                        ]
                    )
                else:
                    logits = model.hf(**given).logits[0]
            total = total + (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * weights).sum()
            n += weights.sum()
        (total / n).backward()
        torch.nn.utils.clip_grad_norm_(model.hf.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float((total / n).detach()))
    return losses


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_training_is_the_plain_one_step_by_step(tmp_path):
    settings = dataclasses.replace(SETTINGS, weight_decay=0.1, clip=0.5)
    outcome = trained(tmp_path, settings)
    model = loaded(tmp_path / "m")
    model.hf.train()
    wanted = plain_loop(model, mixed(tmp_path), settings, outcome.steps)
    assert [report.loss for report in outcome.history] == pytest.approx(wanted, rel=1e-4)
    assert wanted[-1] < wanted[0]  # it learns


def test_what_a_step_says(tmp_path):
    followed = Followed()
    outcome = trained(tmp_path, progress=followed)
    assert followed.reports == list(outcome.history)
    assert [report.step for report in outcome.history] == list(range(1, 7))
    mix = mixed(tmp_path)
    for report, batch in zip(outcome.history, Batches.of(mix, SETTINGS), strict=True):
        kinds = [mix[number].regime for number in batch]
        sums = {
            regime: sum(float(mix[n].loss_weights_L.sum()) for n in batch if mix[n].regime == regime)
            for regime in kinds
        }
        parts = {"original": report.loss_short, "rescaled": report.loss_long}
        assert {regime for regime, part in parts.items() if part is not None} == set(kinds)
        mean = sum(parts[regime] * n for regime, n in sums.items()) / sum(sums.values())
        assert report.loss == pytest.approx(mean)
        assert report.n_tokens == report.step * 2 * TARGET
        assert report.tokens_per_s > 0 and report.peak_memory_bytes > 0 and report.gradient_norm > 0
    assert outcome.history[-1].remaining_s == 0 < outcome.history[0].remaining_s
    assert followed.places == [outcome.checkpoint]


def test_the_outcome_counts_what_was_read(tmp_path):
    outcome = trained(tmp_path)
    assert outcome.n_tokens_by_bin == {"short": 6 * TARGET, "long": 6 * TARGET}
    assert outcome.n_tokens_by_regime == {"original": 6 * TARGET, "rescaled": 6 * TARGET}
    assert outcome.n_tokens == 12 * TARGET and outcome.steps == 6
    without = trained(tmp_path, dataclasses.replace(SETTINGS, short_rope="rescaled"), name="without")
    assert without.n_tokens_by_regime == {"original": 0, "rescaled": 12 * TARGET}
    assert without.history[0].loss_short != outcome.history[0].loss_short
    assert without.history[0].loss_long == outcome.history[0].loss_long or outcome.history[0].loss_long is None


def test_the_model_is_left_with_the_trained_weights_as_others_use_it(tmp_path):
    from safetensors.torch import load_file

    model = loaded(model_folder(tmp_path / "m"))
    modules = [site.module for site in model.sites]
    outcome = trained(tmp_path, model=model)
    assert not model.hf.training
    assert [site.module for site in model.sites] == modules and model.scaling is None
    (file,) = outcome.weights
    weights = load_file(file)
    own = dict(model.hf.named_parameters())
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) and weights[name].dtype == torch.float32 for name in own)


def test_accumulation_is_counted_in_tokens_and_gives_what_one_large_batch_would(tmp_path):
    mix = mixed(tmp_path)
    batches = Batches.of(mix, dataclasses.replace(SETTINGS, batch_tokens=5 * TARGET))
    assert [list(batch) for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    batches = Batches.of(mix, dataclasses.replace(SETTINGS, batch_tokens=TARGET + 1))
    assert {len(batch) for batch in batches} == {2}
    # However many processes share a batch, they read the same segments, and take as many turns.
    for world_size in (1, 2, 3, 4):
        shares = [batches.share(2, rank, world_size) for rank in range(world_size)]
        assert sorted(n for share in shares for n in share if n is not None) == list(batches[2])
        assert len({len(share) for share in shares}) == 1


def test_training_ends_where_it_was_told_to(tmp_path):
    mix = mixed(tmp_path)
    assert len(Batches.of(mix, dataclasses.replace(SETTINGS, steps=3))) == 3
    assert len(Batches.of(mix, dataclasses.replace(SETTINGS, tokens=5 * TARGET))) == 3
    with pytest.raises(RequestError, match="steps = 7: the data gives 6: lower it"):
        Batches.of(mix, dataclasses.replace(SETTINGS, steps=7))
    with pytest.raises(RequestError, match="tokens = 769: the data gives 768"):
        Batches.of(mix, dataclasses.replace(SETTINGS, tokens=12 * TARGET + 1))


def test_the_learning_rate_rises_and_falls_to_its_floor():
    settings = dataclasses.replace(SETTINGS, learning_rate=1.0, warmup_steps=4, final_learning_rate=0.1)
    rates = [learning_rate(settings, index, 24) for index in range(24)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[14] == pytest.approx(0.55)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert 0.1 < rates[-1] < 0.12
    constant = dataclasses.replace(settings, schedule="constant")
    assert {learning_rate(constant, index, 24) for index in range(4, 24)} == {1.0}
    assert learning_rate(dataclasses.replace(settings, warmup_steps=0), 0, 24) == 1.0


# Types


def test_a_model_is_loaded_for_training_in_float32_with_the_attention_asked_for(tmp_path):
    from harness.models.request import ModelRequest

    request = ModelRequest(name=str(model_folder(tmp_path / "m")), dtype="bfloat16", attention="sdpa")
    model = load_for_training(request, torch.device("cpu"), SETTINGS)
    assert {p.dtype for p in model.hf.parameters()} == {torch.float32}
    assert model.hf.config._attn_implementation == "sdpa"
    with pytest.raises(RequestError, match="attention = 'cudnn' needs a GPU and bfloat16"):
        load_for_training(dataclasses.replace(request, attention="cudnn"), torch.device("cpu"), SETTINGS)
    with pytest.raises(RequestError, match="loss = 'liger' needs a GPU"):
        load_for_training(request, torch.device("cpu"), dataclasses.replace(SETTINGS, loss="liger"))


def test_bfloat16_computes_over_float32_weights(tmp_path):
    settings = dataclasses.replace(SETTINGS, dtype="bfloat16", learning_rate=1e-3)
    model = loaded(model_folder(tmp_path / "m"))
    outcome = trained(tmp_path, settings, model=model)
    exact = trained(tmp_path, dataclasses.replace(SETTINGS, learning_rate=1e-3), name="exact")
    assert [r.loss for r in outcome.history] == pytest.approx([r.loss for r in exact.history], rel=0.02)
    assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}
    from safetensors.torch import load_file

    weights = load_file(outcome.weights[0])
    assert {w.dtype for w in weights.values()} == {torch.float32}
    for name, own in model.hf.named_parameters():
        assert torch.equal(own, weights[name].bfloat16())
    # More than bfloat16 could hold: the steps that are too small for it are not lost.
    assert any(not torch.equal(w, w.bfloat16().float()) for w in weights.values())


@pytest.mark.parametrize("capabilities", [{}, {"avx2": True, "avx512_bf16": False}, {"avx512_bf16": True}])
def test_native_computes_in_bfloat16_where_the_processor_multiplies_it(tmp_path, monkeypatch, capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    has_it = capabilities.get("avx512_bf16", False)
    settings = dataclasses.replace(SETTINGS, dtype="native", steps=1)
    model = loaded(model_folder(tmp_path / "m"))
    trained(tmp_path, settings, model=model)
    assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16 if has_it else torch.float32}
    # What was begun in one type does not go on in the other.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not has_it}, raising=False)
    with pytest.raises(RequestError, match="made with dtype"):
        trained(tmp_path, settings, mix=mixed(tmp_path), model=loaded(model_folder(tmp_path / "m")))


@pytest.mark.parametrize("has_it", [True, False])
def test_bfloat16_that_a_processor_does_not_multiply_is_said_to_be_slow(tmp_path, monkeypatch, has_it):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_it}, raising=False)
    followed = Followed()
    trained(tmp_path, dataclasses.replace(SETTINGS, dtype="bfloat16", steps=1), progress=followed)
    assert any("float32" in line for line in followed.lines) == (not has_it)


def test_gradients_of_many_segments_are_added_up_in_float32():
    linear = torch.nn.Linear(1, 1, bias=False)
    masters = MasterWeights(linear, torch.bfloat16)
    for _ in range(300):  # 256 + 1 is 256 in bfloat16
        linear(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
    (grad,) = masters.gradients()
    assert grad.dtype == torch.float32 and float(grad) == 300
    assert linear.weight.grad is None


# What goes wrong


def test_a_loss_that_is_no_number_stops_and_names_the_batch(tmp_path, monkeypatch):
    model = loaded(model_folder(tmp_path / "m"))
    settings = dataclasses.replace(SETTINGS, save_every=1)
    plain = accumulation.tensors

    def poisoned(segment, device, **how):
        given = plain(segment, device, **how)
        if np.array_equal(segment.input_ids_L, bad.input_ids_L):
            given["weights_L"] = given["weights_L"] * math.nan
        return given

    mix = mixed(tmp_path)
    bad = mix[7]
    monkeypatch.setattr(accumulation, "tensors", poisoned)
    with pytest.raises(RequestError) as caught:
        trained(tmp_path, settings, model=model, mix=mix)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("step 4: the loss is nan")
    assert "in the batch of segments 6 to 7 (" in said
    assert f"the last good checkpoint is {tmp_path / 'run' / 'checkpoints' / 'step-000003'}" in said
    assert all(p.isfinite().all() for p in model.hf.parameters())
    # Once the reason is gone, training goes on from there.
    monkeypatch.setattr(accumulation, "tensors", plain)
    again = trained(tmp_path, settings)
    assert again.steps == 6 and all(math.isfinite(report.loss) for report in again.history)


@pytest.mark.parametrize("recomputed", [False, True])
def test_too_little_memory_names_the_knob(tmp_path, monkeypatch, recomputed):
    def forward(self, **given):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: ..."
        )

    monkeypatch.setattr(accumulation.SegmentLoss, "forward", forward)
    settings = dataclasses.replace(SETTINGS, activation_checkpointing=recomputed)
    with pytest.raises(RequestError, match="a segment is larger than the memory of cpu") as caught:
        trained(tmp_path, settings)
    said = str(caught.value)
    assert "data.segment_length" in said and "batch_tokens would not" in said
    assert ("activation_checkpointing = true" in said) is not recomputed


def test_a_segment_that_a_processors_memory_cannot_hold_is_refused_before_it_begins(tmp_path, monkeypatch):
    """Linux would end the process, and nobody would know why."""
    from methods.longrope.training import memory

    monkeypatch.setattr(memory, "free_bytes", lambda device: 200_000)
    with pytest.raises(RequestError, match=r"a segment of 64 tokens needs about 0.0 GB") as caught:
        trained(tmp_path)
    assert "activation_checkpointing = true" in str(caught.value) and "data.segment_length" in str(caught.value)


def test_a_tracker_gets_every_step(tmp_path, monkeypatch):
    from methods.longrope.training import processes

    accelerator = processes.start(SETTINGS, device="cpu", folder=tmp_path)
    begun, logged, ended = [], [], []
    monkeypatch.setattr(accelerator, "init_trackers", lambda name, config: begun.append(config))
    monkeypatch.setattr(accelerator, "log", lambda values, step: logged.append((step, values)))
    monkeypatch.setattr(accelerator, "end_training", lambda: ended.append(True))
    settings = dataclasses.replace(SETTINGS, tracker="tensorboard")
    outcome = trained(tmp_path, settings, accelerator=accelerator)
    assert begun[0]["learning_rate"] == 1e-2 and len(begun) == len(ended) == 1
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6]
    for report, (_, values) in zip(outcome.history, logged, strict=True):
        assert values["loss"] == report.loss and values["tokens_per_s"] == report.tokens_per_s
        assert None not in values.values()


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    from methods.longrope.training import processes

    monkeypatch.setattr(processes, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(RequestError, match="tracker = 'wandb' needs wandb: pip install wandb"):
        processes.start(dataclasses.replace(SETTINGS, tracker="wandb"), device="cpu", folder=tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 1, "steps": 1}, "tokens and steps are both given"),
        ({"learning_rate": 0.0}, "learning_rate = 0: it should be positive"),
        ({"batch_tokens": 0}, "batch_tokens = 0: it should be at least 1"),
        ({"betas": (0.9,)}, "betas = .0.9.: they should be two numbers"),
        ({"final_learning_rate": 1.0}, "final_learning_rate = 1: it should be from 0 to learning_rate = 0.01"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(SETTINGS, **settings)


@pytest.mark.parametrize(
    ("size", "n_processes", "attention", "said"),
    [
        (4, 6, "auto", "sequence_parallel = 4: there are 6 processes, it should divide them"),
        (4, 4, "auto", "sequence_parallel = 4: the model has 2 heads of keys, it should divide them"),
        (2, 2, "sdpa", "sequence_parallel = 2 needs attention = 'auto', it is 'sdpa'"),
    ],
)
def test_sequence_parallelism_that_cannot_be_is_refused(tmp_path, size, n_processes, attention, said):
    from methods.longrope.training.sequence_parallel import join

    model = loaded(model_folder(tmp_path / "m"), attention=attention)
    with pytest.raises(RequestError, match=said):
        join(model.hf, size, 0, n_processes)
