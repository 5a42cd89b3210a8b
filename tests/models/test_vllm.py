"""vLLM as a backend, against an engine that answers with transformers under the RoPE that vLLM would read."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import run_bench
from harness.config import load_plan
from harness.errors import RequestError
from harness.models import backends, loading
from harness.models.request import ModelRequest, model_params
from harness.models.vllm.engine import window_for
from harness.stats import mcnemar
from harness.store import Store
from harness.types import Example
from methods.longrope.export import vllm_engine
from methods.longrope.methods import LongRoPE2ClosedForm
from tasks.needle import Needle
from tests.commands import refused
from tests.methods.ropes import TINY
from tests.models import fake_vllm
from tests.presets import write_preset

CLOSED_FORM = {"name": "longrope2_closed_form", "critical_pair": 14, "start_pair": 6, "attention": "yarn"}
METHODS = [{"name": "vanilla"}, {"name": "yarn"}, CLOSED_FORM]
NEEDLE = {"name": "needle", "tasks": ["keys1_noise"], "max_new_tokens": 10}
GRID = {"seq_lens": [256, 1024], "n_samples": 3, "method": METHODS, "suite": [NEEDLE]}
VLLM = {"name": "tiny-llama", "backend": "vllm"}


@pytest.fixture
def llm(monkeypatch):
    return fake_vllm.install(monkeypatch)


@pytest.fixture
def model(llm):
    return backends.load(ModelRequest(**VLLM), device="cpu")


def run(folder: Path, name: str, model: dict) -> list[tuple[str, list]]:
    out = folder / name
    assert (
        run_bench.main(["run", write_preset(folder, name, model=model, **GRID), "--out", str(out), "--device", "cpu"])
        == 0
    )
    cells = json.loads((out / "run.json").read_text())["cells"]
    return [(f"{c['method']}/{c['seq_len']}", Store(out).records(c["key"])) for c in cells]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same grid under both backends; the records by cell, and what vLLM was asked for."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        made = fake_vllm.install(patch)
        found = run(folder, "theirs", VLLM), run(folder, "ours", {"name": "tiny-llama"})
    return *found, made, folder


def test_the_answers_are_those_of_the_other_backend(both):
    theirs, ours, *_ = both
    for (cell, found), (_, wanted) in zip(theirs, ours, strict=True):
        found, wanted = (sorted(records, key=lambda record: record.example_id) for records in (found, wanted))
        keep = ("example_id", "status", "output", "score", "stopped", "regime", "n_prompt_tokens", "n_new_tokens")
        assert [[getattr(record, name) for name in keep] for record in found] == [
            [getattr(record, name) for name in keep] for record in wanted
        ], cell
        assert {record.attention for record in found} == {"vllm"}
    scores = {cell: sum(record.score for record in found) for cell, found in theirs}
    assert scores["longrope2_closed_form/1024"] >= 2 > 1 >= scores["vanilla/1024"]  # the factors arrived
    assert scores["longrope2_closed_form/256"] == 3


def test_a_method_with_two_ropes_has_two_engines_one_at_a_time(both):
    _, _, llm, _ = both
    facts = [(m["max_model_len"], m["hf_overrides"]["rope_parameters"]) for m in llm.made]
    assert [length for length, _ in facts] == [4096, 4096, 4096, 512]  # vanilla, YaRN, and the closed form's two
    assert (llm.most_alive, llm.alive) == (1, 0)  # and none outlives the run
    beyond, inside = facts[2][1], facts[3][1]
    assert inside["short_factor"] == [1.0] * 32
    assert (inside["short_mscale"], max(beyond["long_factor"])) == (1.0, pytest.approx(2.5))
    assert beyond["long_mscale"] > 1
    for _, parameters in facts:  # whichever list vLLM takes
        assert parameters["short_factor"] == parameters["long_factor"]
    assert all(m["gpu_memory_utilization"] == 0.9 and m["enable_prefix_caching"] for m in llm.made)


def test_prompts_are_given_as_they_are(both):
    theirs, _, llm, _ = both
    lengths = [record.n_prompt_tokens for _, found in theirs for record in found]
    assert sorted(len(prompt) for prompt in llm.prompts) == sorted(lengths)
    assert all(prompt.count(0) <= 1 for prompt in llm.prompts)  # no second BOS


def test_a_finished_cell_names_the_engine(both):
    _, _, _, folder = both
    manifest = json.loads((folder / "theirs" / "run.json").read_text())
    assert manifest["models"]["tiny-llama"]["params"]["backend"]["version"] == fake_vllm.VERSION
    mark = json.loads((folder / "theirs" / "cells" / manifest["cells"][0]["key"] / "cell.json").read_text())
    assert mark["engine"] == {"attention": "auto", "batch": 64, "backend": "vllm", "version": fake_vllm.VERSION}


def test_two_backends_are_never_compared(both, capsys):
    _, _, _, folder = both
    allow = [word for kind in ("samples", "model", "dtype", "attention") for word in ("--allow-mismatch", kind)]
    assert run_bench.main(["compare", str(folder / "ours"), str(folder / "theirs"), *allow]) == 4
    said = capsys.readouterr().out
    assert "backend" in said and "run both under one" in said


def test_a_board_has_one_backend(both, tmp_path, capsys):
    _, _, _, folder = both
    assert run_bench.main(["leaderboard", *(str(folder / n) for n in ("ours", "theirs")), "--out", str(tmp_path)]) == 5
    assert "another definition of the backend" in capsys.readouterr().err


def test_stop_texts_and_settled_scores_end_an_answer_where_the_other_backend_ends_it(model, tiny_llama):
    prompt = tiny_llama.tokenizer("The sky is blue. The grass is").input_ids
    written = tiny_llama.answer(Example(id="", prompt_ids=prompt, max_new_tokens=12)).text
    end = written[len(written) // 2 :][:3]
    for stop, settled in (((end,), None), ((), lambda text: end in text), ((), None)):
        example = Example(id="", prompt_ids=prompt, max_new_tokens=12, stop=stop)
        found, wanted = model.answer(example, settled), tiny_llama.answer(example, settled)
        assert (found.text, found.token_ids, found.stopped) == (wanted.text, wanted.token_ids, wanted.stopped)


def test_a_sequence_ends_at_the_same_tokens(model, tiny_llama):
    assert model.eos_ids == tiny_llama.eos_ids


def test_logits_that_are_no_numbers_are_an_error(model, llm):
    llm.nan_at = 1
    with pytest.raises(FloatingPointError, match="not finite"):
        model.answer(Example(id="", prompt_ids=[1, 2, 3], max_new_tokens=2))


def test_after_an_engine_that_died_the_next_request_has_a_new_one(model, llm):
    llm.fails[1] = RuntimeError("EngineCore encountered an issue")
    example = Example(id="", prompt_ids=[1, 2, 3], max_new_tokens=2)
    with pytest.raises(RuntimeError, match="EngineCore"):
        model.answer(example)
    assert model.answer(example).stopped == "length"
    assert (len(llm.made), llm.alive) == (2, 1)


def test_a_longer_request_than_the_engine_takes_starts_one_that_does(model, llm):
    for n in (600, 500, 5000):
        model.answer(Example(id="", prompt_ids=[1] * n, max_new_tokens=1))
    assert [made["max_model_len"] for made in llm.made] == [4096, 8192]  # the second serves from the first: one RoPE


@pytest.mark.parametrize(
    ("n_tokens", "length"), [(512, 512), (513, 4096), (4097, 8192), (131068, 131072), (131100, 147456)]
)
def test_an_engines_window(n_tokens, length):
    assert window_for(n_tokens, 512) == length


def test_a_rope_on_a_part_of_each_head_stays_on_that_part():
    given = vllm_engine(TINY.rescaled(2.0), TINY, max_model_len=4096, config={"partial_rotary_factor": 0.75})
    assert given["hf_overrides"]["rope_parameters"]["partial_rotary_factor"] == 0.75


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        (replace(TINY.rescaled(2.0), start_tokens=4), "first 4 positions"),
        (TINY.rescaled(np.full(32, np.inf)), "frequencies off"),
    ],
)
def test_a_rope_that_no_list_of_factors_is_has_no_engine(scaling, said):
    with pytest.raises(RequestError, match=said):
        vllm_engine(scaling, TINY, max_model_len=4096, config={})


def test_a_model_class_that_reads_another_rope_is_refused(model, llm):
    llm.drops = ("long_mscale",)
    with pytest.raises(RequestError, match="did not take the RoPE"):
        model.answer(Example(id="", prompt_ids=[1, 2], max_new_tokens=1))
    assert llm.alive == 0


def test_scoring_is_refused(model):
    example = next(Needle(scoring="teacher_forced").examples(
        "keys1_noise", seq_len=256, n=1, seed=0, tokenizer=model.tokenizer
    ))  # fmt: skip
    with pytest.raises(RequestError, match="only generates"):
        model.answer(example)


def test_the_engine_is_part_of_a_results_identity(llm, monkeypatch):
    plain, request = ModelRequest(name="tiny-llama"), ModelRequest(**VLLM)
    assert "backend" not in model_params(plain)  # as before there was a choice
    eager = replace(request, vllm={"enforce_eager": True})
    monkeypatch.setattr("harness.models.vllm.settings.package_version", lambda name: "1.0")
    newer = model_params(request)
    monkeypatch.undo()
    found = [model_params(plain), model_params(request), model_params(eager), newer]
    assert [found.count(params) for params in found] == [1, 1, 1, 1]


def test_a_worker_with_another_vllm_is_refused(llm, tmp_path, monkeypatch):
    from harness.cluster.worker import _check_files

    planned = load_plan(write_preset(tmp_path, model=VLLM, **GRID)).cells[0]
    _check_files(planned)
    monkeypatch.setattr("harness.models.vllm.settings.package_version", lambda name: "0.1")
    with pytest.raises(RequestError, match="same vllm"):
        _check_files(planned)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {**VLLM, "backend": "vlm"}}, ["backend = 'vlm'", "did you mean 'vllm'?"]),
        ({"model": {"name": "tiny-llama", "vllm": {}}}, ["[model.vllm]", "backend = 'vllm'"]),
        ({"model": {**VLLM, "vllm": {"enforce_eagre": True}}}, ["[model.vllm]", "did you mean 'enforce_eager'?"]),
        ({"model": {**VLLM, "vllm": {"gpu_memory_utilization": 1.5}}}, ["gpu_memory_utilization = 1.5", "at most 1"]),
        ({"model": {**VLLM, "vllm": {"tensor_parallel_size": 0}}}, ["tensor_parallel_size = 0", "at least 1"]),
        ({"model": {**VLLM, "attention": "math"}}, ["attention = 'math'", "leave it out"]),
        ({"model": [VLLM, {"name": "tiny-llama", "label": "b"}]}, ["'b' has 'transformers'", "not comparable"]),
        ({"method": [{"name": "dynamic_ntk"}]}, ["'dynamic_ntk'", "follow each request's length"]),
        ({"target_length": "request"}, ["'yarn'", "set it for one target_length"]),
        ({"method": [{"name": "cope"}]}, ["'cope'", "frequencies off"]),
        ({"suite": [NEEDLE, {"name": "perplexity", "tasks": ["docs_whole"]}]}, ["'perplexity'", "only generates"]),
        ({"suite": [{**NEEDLE, "scoring": "teacher_forced"}]}, ["'needle'", "scores given texts"]),
        ({"run": {"sample_timeout_s": 5.0}}, ["sample_timeout_s = 5", "leave it out"]),
        ({"run": {"kv_offload": True}}, ["kv_offload = true", "leave it out"]),
        ({"run": {"gpus": 0.5}}, ["gpus = 0.5", "at most 0.5"]),
        ({"run": {"gpus": 2}}, ["gpus = 2", "tensor_parallel_size = 2"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else json.dumps(value)[:60],
)
def test_what_vllm_cannot_do_is_refused_before_anything_runs(changes, said, llm, tmp_path, capsys):
    preset = write_preset(tmp_path, **({"model": VLLM} | GRID | changes))
    line = refused(["run", preset, "--out", str(tmp_path / "out"), "--device", "cpu"], capsys, out=tmp_path / "out")
    for part in said:
        assert part in line
    assert llm.made == []


def test_methods_with_weights_or_attention_of_their_own_are_refused(llm, tmp_path, capsys):
    preset = write_preset(tmp_path, model=VLLM, **(GRID | {"method": [{"name": f"{__name__}:OtherAttention"}]}))
    assert "more than a list of RoPE factors" in refused(["run", preset, "--out", str(tmp_path / "out")], capsys)


class OtherAttention(LongRoPE2ClosedForm):
    """A method that does more than its factors."""

    def applied(self, model, *, seq_len):
        return super().applied(model, seq_len=seq_len)


def test_a_live_switch_is_refused(llm, tmp_path, capsys):
    from tests.methods.longrope.training.exported import factors_file

    factors = factors_file(tmp_path, rescale_factors=[2.0 + pair for pair in range(32)])
    method = [{"name": "longrope2", "factors": str(factors), "switch": "live"}]
    preset = write_preset(tmp_path, model=VLLM, **(GRID | {"method": method}))
    assert "switch = 'live'" in refused(["run", preset, "--out", str(tmp_path / "out")], capsys)


def test_without_vllm_one_line_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.models.vllm.settings.find_spec", lambda name: None)
    line = refused(["run", write_preset(tmp_path, model=VLLM, **GRID)], capsys)
    assert "the package vllm is not installed (pip install 'longreach[vllm]')" in line


def test_a_device_that_vllm_does_not_run_on_is_refused(tmp_path, capsys, monkeypatch):
    fake_vllm.install(monkeypatch, device_type="cuda")
    preset = write_preset(tmp_path, model=VLLM, **GRID)
    line = refused(["run", preset, "--out", str(tmp_path / "out"), "--device", "cpu"], capsys, out=tmp_path / "out")
    assert "the installed vLLM runs on cuda, not on cpu" in line


def test_another_gpu_than_the_first_is_refused(monkeypatch):
    fake_vllm.install(monkeypatch, device_type="cuda")
    with pytest.raises(RequestError, match="CUDA_VISIBLE_DEVICES=1"):
        backends.check_machine(ModelRequest(**VLLM), torch.device("cuda:1"))


def test_an_engine_that_does_not_start_ends_the_run_with_one_line(llm, tmp_path, capsys):
    llm.refuses = "No available memory for the cache blocks."
    preset = write_preset(tmp_path, model=VLLM, **GRID)
    assert run_bench.main(["run", preset, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("vLLM starts no engine for 4096 tokens: No available memory for the cache blocks.")


@pytest.mark.parametrize("verb", ["search", "train"])
def test_searching_and_training_have_one_backend(verb, llm, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.models.loading.load", lambda *args, **settings: pytest.fail("the model was loaded"))
    shipped = Path(run_bench.__file__).parent / "harness" / "presets" / verb
    text = (shipped / ("tiny-4096.toml" if verb == "search" else "tiny.toml")).read_text()
    assert "[model]\n" in text
    (tmp_path / "asked.toml").write_text(text.replace("[model]\n", '[model]\nbackend = "vllm"\n'))
    line = refused([verb, str(tmp_path / "asked.toml"), "--out", str(tmp_path / "out")], capsys, out=tmp_path / "out")
    assert "backend = 'vllm' is for `run` alone" in line


@pytest.mark.vllm
@pytest.mark.skipif(
    find_spec("vllm") is None or not torch.cuda.is_available(),
    reason="needs vLLM (pip install 'longreach[vllm]') and a CUDA device",
)
def test_parity_of_the_installed_vllm():
    """64 needles inside the window and beyond it: at least 95 % of the tokens, and the same accuracy but for noise."""
    method = LongRoPE2ClosedForm(critical_pair=14, start_pair=6, attention="yarn", target_length=2048)
    request = ModelRequest(name="tiny-llama", dtype="bfloat16")
    ours = loading.load(request, device="cuda")
    theirs = backends.load(
        replace(request, backend="vllm", vllm={"gpu_memory_utilization": 0.3, "enforce_eager": True}), device="cuda"
    )
    suite, same, scores = Needle(max_new_tokens=10), [], []
    for seq_len in (2048, 512):
        examples = list(suite.examples("keys1_noise", seq_len=seq_len, n=32, seed=0, tokenizer=ours.tokenizer))
        found = []
        for model in (ours, theirs):
            with method.applied(model, seq_len=max(example.n_tokens for example in examples)):
                found.append(dict(model.answer_each(examples, [None] * 32, n_rows=32)))
        for place, example in enumerate(examples):
            pair = [found[0][place], found[1][place]]
            n = max(len(output.token_ids) for output in pair)
            same.append(sum(a == b for a, b in zip(*(output.token_ids for output in pair), strict=False)) / n)
            scores.append([suite.score("keys1_noise", example, output).value for output in pair])
    theirs.close()
    assert sum(same) / len(same) >= 0.95
    assert mcnemar([b for _, b in scores], [a for a, _ in scores]).p_value >= 0.05
