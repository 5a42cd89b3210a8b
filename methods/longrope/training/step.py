"""One pass: a segment in, the sum of its weighted loss out.

Shape letters: L tokens of a segment, H hidden size, V vocabulary, D documents.
"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from harness.models.attention import attending
from harness.models.forward import head
from methods.longrope.training.loss import chunked_loss, liger_loss
from methods.longrope.training.segments import TrainingSegment


class SegmentLoss(nn.Module):
    """A model as a function from a segment's tensors to the sum of weight x cross-entropy over its tokens.

    used: the attention kernels that have run.
    """

    def __init__(self, hf: Any, *, loss: Literal["chunked", "liger"] = "chunked", loss_chunk: int = 2048) -> None:
        super().__init__()
        self.hf = hf
        self.used: set[str] = set()
        self._loss, self._chunk = loss, loss_chunk

    def forward(
        self, *, input_ids: Tensor, position_ids: Tensor, labels_L: Tensor, weights_L: Tensor, **packing: Any
    ) -> Tensor:
        """The sum. input_ids, position_ids: (1, L). packing: an attention mask, or where documents begin."""
        with attending() as note:
            note.packed = "cu_seq_lens_q" in packing
            outputs = self.hf.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **packing)
        self.used |= note.used
        hidden_LH = outputs.last_hidden_state[0]
        output = self.hf.get_output_embeddings()
        if self._loss == "liger":
            return liger_loss(output, hidden_LH, labels_L, weights_L)
        this: Any = self
        weights_of_head = [p for p in output.parameters() if p.requires_grad]
        return chunked_loss(lambda part: head(this, part), weights_of_head, hidden_LH, labels_L, weights_L, self._chunk)


def layers(hf: Any) -> list[nn.Module]:
    """A model's blocks, which are split over processes one by one."""
    names = set(getattr(hf, "_no_split_modules", None) or ())
    return [module for module in hf.modules() if type(module).__name__ in names]


def recompute_layers(hf: Any, on: bool) -> None:
    """Whether a layer's activations are computed again for its gradient instead of kept."""
    # transformers renamed both in 5.2x, and warns of the old names.
    what = "activation_checkpointing" if hasattr(hf, "activation_checkpointing_enable") else "gradient_checkpointing"
    if on:
        getattr(hf, f"{what}_enable")({"use_reentrant": False})
    else:
        getattr(hf, f"{what}_disable")()


def tensors(
    segment: TrainingSegment, device: torch.device, *, weight: float = 1.0, part: slice = slice(None)
) -> dict[str, Any]:
    """What `SegmentLoss` is called with. weight: multiplies every token's weight. part: the tokens this process has."""
    labels_L, weights_L = segment.targets()
    given: dict[str, Any] = {
        "input_ids": torch.from_numpy(segment.input_ids_L[part])[None].to(device),
        "position_ids": torch.from_numpy(segment.position_ids_L[part])[None].to(device),
        "labels_L": torch.from_numpy(labels_L[part]).to(device),
        "weights_L": torch.from_numpy(weights_L[part]).to(device) * weight,
    }
    if segment.skips_positions:
        # Without a mask, transformers reads a skip as the border of a document.
        given["attention_mask"] = torch.ones_like(given["input_ids"])
    elif segment.cu_seqlens is not None and len(segment.cu_seqlens) > 2:
        ends = torch.from_numpy(segment.cu_seqlens).to(device)
        longest = int(np.diff(segment.cu_seqlens).max())
        given |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return given
