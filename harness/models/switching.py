"""The RoPE of a generation that begins inside the trained window and may leave it.

Keys hold the rotation they were made with, and every layer's keys depend on what the layers below attended to. So a
sequence that goes on under another RoPE is read again from its first token; its cached keys cannot be turned over.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.models.generation import Request, generate_under_one_rope
from harness.models.rotary import pinned, rotary_scaling
from harness.types import Output
from methods.base import RopeScaling

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Switch:
    """`inside` holds for sequences of at most `window` tokens; the scaling that is on the model for longer ones."""

    inside: RopeScaling
    window: int


def applied_rope(method: Any, model: "LoadedModel", *, seq_len: int) -> AbstractContextManager["LoadedModel"]:
    """The model under a method's RoPE for requests of `seq_len` tokens, until the block ends."""
    scaling: RopeScaling = method.rope_scaling(model.rope, seq_len=seq_len)
    window = model.rope.original_max_position_embeddings
    if seq_len <= window or getattr(method, "switch", "request") == "request":
        return rotary_scaling(model, scaling)
    inside = method.rope_scaling(model.rope, seq_len=window)
    return _switching(model, scaling, Switch(inside=inside, window=window))


def generate_switching(
    model: "LoadedModel", requests: Sequence[Request], *, n_rows: int = 1
) -> Iterator[tuple[int, Output]]:
    """`generate_each` where each token is written under the RoPE that the length of what stands before it asks for.

    Each row leaves the inside by itself, whatever the others do: it writes until its sequence has one token more than
    the window, then all of it is read again. `prefill_s` counts both readings.
    """
    switch = model.switch
    assert switch is not None
    began = _written_inside(model, switch, requests, n_rows)
    left: list[tuple[int, Request]] = []
    for place, request in enumerate(requests):
        if place not in began:
            left.append((place, request))
        elif began[place].stopped is None:
            left.append((place, _continued(request, began[place])))
        else:
            yield place, began[place]
    if not left:
        return
    regime = model.regime
    for index, output in generate_under_one_rope(model, [request for _, request in left], n_rows=n_rows):
        place = left[index][0]
        yield place, _joined(began.get(place), replace(output, regime=regime))


@contextmanager
def _switching(model: "LoadedModel", beyond: RopeScaling, switch: Switch) -> Iterator["LoadedModel"]:
    with rotary_scaling(model, beyond):
        model.switch = switch
        try:
            yield model
        finally:
            model.switch = None


def _written_inside(
    model: "LoadedModel", switch: Switch, requests: Sequence[Request], n_rows: int
) -> dict[int, Output]:
    """What the requests that begin inside the window write there, by their places.

    All of it before any is handed on: a caller that stops in between must not find the model under this RoPE.
    """
    places = [place for place, request in enumerate(requests) if len(request.prompt_ids) <= switch.window]
    bounded = []
    for place in places:
        request = requests[place]
        room = switch.window - len(request.prompt_ids) + 1  # the last one is written from a sequence of the window
        bounded.append(replace(request, max_new_tokens=min(room, request.max_new_tokens)))
    if not bounded:
        return {}
    with pinned(model, switch.inside):
        regime = model.regime
        found = generate_under_one_rope(model, bounded, n_rows=n_rows)
        began = {}
        for index, output in found:
            place = places[index]
            if output.stopped == "length" and len(output.token_ids) < requests[place].max_new_tokens:
                # The end of the window is no end of the answer: a text that is settled by now ends as such.
                is_settled = requests[place].is_settled(output.text)
                output = replace(output, stopped="settled" if is_settled else None)
            began[place] = replace(output, regime=regime)
    return began


def _continued(request: Request, began: Output) -> Request:
    return replace(
        request,
        prompt_ids=[*request.prompt_ids, *began.token_ids],
        max_new_tokens=request.max_new_tokens - len(began.token_ids),
        written=(*request.written, *began.token_ids),
    )


def _joined(began: Output | None, output: Output) -> Output:
    if began is None:
        return output
    return replace(
        output,
        token_ids=(*began.token_ids, *output.token_ids),
        attention="+".join(sorted({*began.attention.split("+"), *output.attention.split("+")} - {""})),
        prefill_s=began.prefill_s + output.prefill_s,
        decode_s=began.decode_s + output.decode_s,
    )
