"""What stops vLLM from running a plan, said before anything runs. Imports neither torch nor vLLM."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError
from harness.models import files, hub
from harness.models.locate import Source, locate
from harness.models.rope_facts import rope_spec
from harness.models.vllm.settings import check_installed, settings
from harness.types import JSON
from methods.base import AbstractRopeMethod, RopeScaling, RopeSpec

if TYPE_CHECKING:
    from harness.models.request import ModelRequest
    from harness.plan import Plan, PlannedMethod, PlannedSuite, RunSettings

_OTHERWISE = "backend = 'transformers' runs it"


def check_request(request: "ModelRequest", source: Source) -> None:
    """Raises RequestError for a model, or settings, that no engine can be given."""
    settings(request.vllm)
    check_installed()
    if source.gguf is not None:
        raise RequestError(
            f"model '{request.label}': backend = 'vllm' reads safetensors, {source.gguf.name} is a GGUF: {_OTHERWISE}"
        )
    if request.attention != "auto":
        raise RequestError(
            f"model '{request.label}': attention = '{request.attention}': vLLM chooses its own, leave it out"
        )


def check_plan(plan: "Plan") -> None:
    """Raises RequestError where a plan names vLLM and asks for what it cannot do, or cannot do comparably."""
    requests = [request for request in plan.models if request.backend == "vllm"]
    if not requests:
        return
    for other in plan.models:
        if other.backend != "vllm":
            raise RequestError(
                f"model '{requests[0].label}' has backend = 'vllm', model '{other.label}' has 'transformers': numbers "
                "of two backends are not comparable, give each a preset of its own"
            )
    for request in requests:
        _check_run(request, plan.run)
        rope, config = rope_spec(request), model_config(request)
        for method in plan.methods:
            _check_method(method, rope, config, plan.suites)
    for suite in plan.suites:
        for task in suite.tasks:
            if suite.suite.metric(task).kind == "likelihood":
                raise _scores(suite.label, task)


def check_generates(suite: "PlannedSuite", task: str, *, seq_len: int, seed: int, tokenizer: Any) -> None:
    """Raises RequestError for a task whose first sample of this length is no generation."""
    for example in suite.suite.examples(task, seq_len=seq_len, n=1, seed=seed, tokenizer=tokenizer):
        if example.segments:
            raise _scores(suite.label, task)
        return


def model_config(request: "ModelRequest") -> dict[str, JSON]:
    """The model's config.json. Raises RequestError."""
    source = locate(request)
    if source.folder is not None:
        return dict(files.read_config(source.folder))
    return dict(files.read_json(hub.read_file(source.repo_id, "config.json", source.revision)))


def _check_run(request: "ModelRequest", run: "RunSettings") -> None:
    if run.sample_timeout_s:
        raise RequestError(
            f"sample_timeout_s = {run.sample_timeout_s:g}: vLLM's engine cannot be stopped within a request, leave it "
            "out with backend = 'vllm'"
        )
    if run.kv_offload:
        raise RequestError("kv_offload = true: vLLM keeps its own cache, leave it out with backend = 'vllm'")
    engine = settings(request.vllm)
    part, n_gpus = engine.gpu_memory_utilization, engine.tensor_parallel_size
    if run.gpus is not None and run.gpus >= 1 and run.gpus != n_gpus:
        raise RequestError(
            f"gpus = {run.gpus:g}: an engine of vLLM takes {n_gpus}, write under [model.vllm] "
            f"tensor_parallel_size = {run.gpus:g}, or gpus = {n_gpus}"
        )
    if run.gpus is not None and 0 < run.gpus < part:
        raise RequestError(
            f"gpus = {run.gpus:g}: an engine of vLLM takes {part:g} of a GPU, write under [model.vllm] a "
            f"gpu_memory_utilization of at most {run.gpus:g}"
        )


def _check_method(
    planned: "PlannedMethod", rope: RopeSpec, config: dict[str, JSON], suites: Sequence["PlannedSuite"]
) -> None:
    """Raises RequestError for a method that is not one list of factors inside the window, and one beyond."""
    from methods.longrope.export import vllm_engine

    where, method = f"method '{planned.label}'", planned.method
    if getattr(planned, "interpreter", None) is not None:
        raise RequestError(f"{where}: python: with backend = 'vllm' all methods share an environment, leave it out")
    if not _only_changes_rope(method):
        raise RequestError(
            f"{where} is more than a list of RoPE factors (its own weights, or attention): vLLM is given nothing "
            f"else; {_OTHERWISE}"
        )
    if getattr(method, "switch", "request") != "request":
        raise RequestError(
            f"{where}: switch = '{method.switch}' changes the RoPE of a generation on its way, an engine of vLLM keeps "
            f"one: leave it out, or {_OTHERWISE}"
        )
    for lengths in _sides(rope.original_max_position_embeddings, suites):
        found: list[RopeScaling] = [method.rope_scaling(rope, seq_len=length) for length in lengths]
        if not all(scaling.same_as(found[0]) for scaling in found):
            raise RequestError(
                f"{where}: its frequencies follow each request's length, an engine of vLLM has one list of factors: "
                f"set it for one target_length where it takes one, or {_OTHERWISE}"
            )
        try:
            vllm_engine(found[0], rope, max_model_len=lengths[-1], config=config)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from error


def _only_changes_rope(method: Any) -> bool:
    """Whether a method's `applied` puts a RoPE on the model and nothing besides."""
    from methods.longrope.methods import AbstractFactorsMethod

    ours = (AbstractRopeMethod.applied, AbstractFactorsMethod.applied)
    return isinstance(method, AbstractRopeMethod) and type(method).applied in ours


def _sides(window: int, suites: Sequence["PlannedSuite"]) -> Iterator[list[int]]:
    """Lengths of requests inside the window, then beyond it, as far as the plan's suites reach."""
    planned = sorted({seq_len for suite in suites for seq_len in suite.seq_lens})
    yield sorted({1, min(window, planned[-1]), *(seq_len for seq_len in planned if seq_len <= window)})
    if planned[-1] > window:
        yield sorted({window + 1, *(seq_len for seq_len in planned if seq_len > window)})


def _scores(label: str, task: str) -> RequestError:
    return RequestError(
        f"suite '{label}', task '{task}' scores given texts: backend = 'vllm' only generates, leave it out, or "
        "give it a preset with backend = 'transformers'"
    )
