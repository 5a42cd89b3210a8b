"""Measures candidates on a loaded model: the loss of answers at the end of long documents, and its gradient.

Shape letters: D documents, B documents of a batch, L tokens, N scored tokens, H hidden size, V vocabulary, P pairs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harness.errors import RequestError
from harness.models.attention import attending, reading
from harness.models.forward import head
from harness.models.loading import LoadedModel
from harness.models.rotary import rotary_scaling
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.documents import Document, Documents, Objective
from methods.longrope.search.evaluator import Ask, Gradient, Measured, Unit

_BATCH_TOKENS = {"cpu": 1 << 11, "cuda": 1 << 17}  # a processor gains nothing from more
_BLOCK_LOGITS = 1 << 25  # of one block: 128 MiB in float32
_KEPT = 4  # draws whose documents are kept


@dataclass(frozen=True, eq=False)
class _Texts:
    """Documents of one length, on the model's device, and which of their tokens are scored."""

    ids_DL: Tensor
    scored_DL: Tensor

    @classmethod
    def of(cls, documents: Sequence[Document], device: torch.device) -> "_Texts":
        ids_DL = torch.tensor([document.token_ids for document in documents], device=device)
        scored_DL = torch.ones_like(ids_DL, dtype=torch.bool)
        for scored_L, document in zip(scored_DL, documents, strict=True):
            for begin, end in [(0, document.n_context), *document.questions]:
                scored_L[begin:end] = False
        return cls(ids_DL, scored_DL)

    @property
    def n_read(self) -> int:
        """Of a pass over all tokens but the last: how many are read, from the first whose next one is scored."""
        return self.scored_DL.shape[1] - int(self.scored_DL.any(dim=0).int().argmax())

    def batches(self, n_tokens: int) -> Iterator["_Texts"]:
        """One after another, in batches of about `n_tokens` tokens."""
        rows = max(1, n_tokens // self.ids_DL.shape[1])
        for at in range(0, len(self.ids_DL), rows):
            part = slice(at, at + rows)
            yield _Texts(self.ids_DL[part], self.scored_DL[part])


class NeedleEvaluator:
    """An `Evaluator` on a loaded model, which it leaves as it was.

    A candidate whose logits, or gradient, are not finite has a loss of NaN. Where memory runs out, documents are read
    fewer at a time; where one alone is too much, RequestError.
    On a CPU the same ask gives the same bits.
    """

    def __init__(self, model: LoadedModel, objective: Objective, *, target_length: int, seed: int = 0) -> None:
        self.documents = Documents(objective, model.tokenizer, target_length=target_length, seed=seed)
        self.target_length = target_length
        self._model = model
        on_gpu = model.device.type == "cuda"
        self._checkpointing = objective.checkpoints(on_gpu=on_gpu)
        self._batch_tokens = objective.batch_tokens or _BATCH_TOKENS["cuda" if on_gpu else "cpu"]
        self._texts: dict[tuple[Any, ...], _Texts] = {}
        if self._checkpointing:
            _layers(model.hf)  # a model that cannot is refused now

    @property
    def unit(self) -> Unit:
        """What a forward-equivalent is here: the objective's documents at the target length."""
        return self.documents.objective.unit(self.target_length, on_gpu=self._model.device.type == "cuda")

    def measure(self, ask: Ask) -> list[Measured]:
        """One for each candidate, in their order. Raises RequestError where documents cannot be made or do not fit."""
        texts = self._made(ask)
        run = self._gradient if ask.measure == "gradient" else self._loss
        return [run(candidate, texts) if candidate.is_sound else _FAILED for candidate in ask.candidates]

    def _made(self, ask: Ask) -> _Texts:
        """The documents of an ask, made once for all its candidates."""
        window = self._model.rope.original_max_position_embeddings
        if ask.measure == "short_loss" and ask.draw.seq_len > window:
            raise RequestError(f"short_loss of {ask.draw.seq_len} tokens: it should be within the window of {window}")
        key = (ask.measure == "short_loss", ask.draw)
        if key not in self._texts:
            made = self.documents.plain(ask.draw) if key[0] else self.documents.make(ask.draw)
            while len(self._texts) >= _KEPT:
                del self._texts[next(iter(self._texts))]
            self._texts[key] = _Texts.of(made, self._model.device)
        return self._texts[key]

    @torch.no_grad()
    def _loss(self, candidate: Candidate, texts: _Texts) -> Measured:
        with rotary_scaling(self._model, candidate.scaling(self._model.rope)):
            return _measured(self._each_batch(texts, self._nll))

    def _gradient(self, candidate: Candidate, texts: _Texts) -> Measured:
        scaling, device = candidate.scaling(self._model.rope), self._model.device
        inv_freq_P = torch.tensor(scaling.inv_freq_P, dtype=torch.float64, device=device, requires_grad=True)
        factor = torch.tensor(scaling.attention_factor, dtype=torch.float64, device=device, requires_grad=True)
        given: Any = {"inv_freq_P": inv_freq_P, "attention_factor": factor}

        def backward(batch: _Texts) -> Tensor:
            losses_B = self._nll(batch)
            (losses_B.sum() / len(texts.ids_DL)).backward()
            return losses_B.detach()

        def again() -> None:
            inv_freq_P.grad = factor.grad = None

        with (
            _frozen(self._model.hf),
            _checkpointed(self._model.hf) if self._checkpointing else nullcontext(),
            rotary_scaling(self._model, replace(scaling, **given)),
        ):
            measured = _measured(self._each_batch(texts, backward, again=again, gradient=True))
        assert inv_freq_P.grad is not None and factor.grad is not None
        # By the chain rule: a frequency is the original one over its factor.
        found = Gradient(
            log_rescale_factors_P=(-inv_freq_P.detach() * inv_freq_P.grad).cpu().numpy(),
            log_attention_factor=float(factor.detach() * factor.grad),
        )
        numbers = (*found.log_rescale_factors_P, found.log_attention_factor)
        return replace(measured, gradient=found) if all(map(math.isfinite, numbers)) else _FAILED

    def _each_batch(
        self,
        texts: _Texts,
        run: Callable[[_Texts], Tensor],
        *,
        again: Callable[[], None] = lambda: None,
        gradient: bool = False,
    ) -> list[float]:
        """The loss of each document. again: undoes what batches left behind, before all are run in smaller ones."""
        length = texts.ids_DL.shape[1]
        while True:
            try:
                with attending(), reading(texts.n_read):  # a checkpointed layer runs again in the backward pass
                    return [loss for batch in texts.batches(self._batch_tokens) for loss in run(batch).tolist()]
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if self._batch_tokens < 2 * length:
                    raise RequestError(self._too_large(length, gradient)) from error
            # Outside the handler, whose error holds on to the batch's tensors.
            self._batch_tokens //= 2
            again()
            if self._model.device.type == "cuda":
                torch.cuda.empty_cache()

    def _too_large(self, length: int, gradient: bool) -> str:
        what = f"objective: one document of {length} tokens does not fit into the memory of {self._model.device.type}"
        if gradient and not self._checkpointing:
            return f"{what} with its gradient: checkpointing = true under [objective] needs far less"
        return f"{what}: a shorter target_length, a smaller dtype under [model] or a larger machine would do"

    def _nll(self, batch: _Texts) -> Tensor:
        """The mean negative log-likelihood (B), in float64, of each document's scored tokens."""
        # What the last token would predict is not asked.
        outputs = self._model.hf.base_model(input_ids=batch.ids_DL[:, :-1], use_cache=False)
        scored_BL = batch.scored_DL
        hidden_NH = outputs.last_hidden_state[scored_BL[:, 1:]]  # of the token before each
        logprobs_N = self._logprobs(hidden_NH, batch.ids_DL[scored_BL])
        parts = logprobs_N.split(scored_BL.sum(dim=1).tolist())
        return torch.stack([-part.double().mean() for part in parts])

    def _logprobs(self, hidden_NH: Tensor, wanted_N: Tensor) -> Tensor:
        """The log-probability of each wanted token; the logits of a block alone are ever held."""
        rows = max(1, _BLOCK_LOGITS // self._model.hf.config.get_text_config(decoder=True).vocab_size)
        block = partial(_block_logprobs, self._model)
        if len(hidden_NH) > rows:  # else a graph would keep the logits of every block
            block = partial(checkpoint, block, use_reentrant=False, preserve_rng_state=False)
        blocks = zip(hidden_NH.split(rows), wanted_N.split(rows), strict=True)
        return torch.cat([block(hidden, wanted) for hidden, wanted in blocks])


def evaluators(
    model: LoadedModel, objective: Objective, *, target_length: int, seed: int
) -> tuple[NeedleEvaluator, NeedleEvaluator]:
    """What the search minimises, and what its report shows: needles, whatever the objective is."""
    evaluator = NeedleEvaluator(model, objective, target_length=target_length, seed=seed)
    if objective.kind == "needle":
        return evaluator, evaluator
    judged = replace(objective, kind="needle")
    return evaluator, NeedleEvaluator(model, judged, target_length=target_length, seed=seed)


_FAILED = Measured(loss=math.nan)


def _measured(losses: Sequence[float]) -> Measured:
    loss = math.fsum(losses) / len(losses) if all(map(math.isfinite, losses)) else math.nan
    return Measured(loss=loss, losses=tuple(losses))


def _block_logprobs(model: LoadedModel, hidden_NH: Tensor, wanted_N: Tensor) -> Tensor:
    logits_NV = head(model, hidden_NH)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return logits_NV.gather(1, wanted_N[:, None])[:, 0] - logits_NV.logsumexp(dim=1)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def _frozen(hf: torch.nn.Module) -> Iterator[None]:
    """No weight asks for a gradient until the block ends."""
    asked = [weight for weight in hf.parameters() if weight.requires_grad]
    try:
        for weight in asked:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in asked:
            weight.requires_grad_(True)


def _layers(hf: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers that transformers would checkpoint. Raises RequestError where there is none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: list[torch.nn.Module] = [module for module in hf.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        raise RequestError(f"{type(hf).__name__} has no layers to checkpoint: checkpointing should be false")
    return found


@contextmanager
def _checkpointed(hf: torch.nn.Module) -> Iterator[None]:
    """Each layer keeps its input alone and runs again in the backward pass, until the block ends.

    transformers' own switch works in training mode only, which turns dropout on.
    """
    layers = _layers(hf)
    try:
        for layer in layers:
            forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
            layer.__dict__["forward"] = forward  # an attribute of the object, over the class's method
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
