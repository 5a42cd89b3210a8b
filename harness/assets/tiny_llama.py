"""Trains the embedded model again: python -m harness.assets.tiny_llama --books FOLDER --out FOLDER

A Llama of 4.5 million parameters that reads 512 tokens and finds what was hidden in them. Its rows are book text,
needles (1, 2 or 4 keys), chains of variables and repeated noise. The weights in `tiny-llama/` took 395 seconds on an
H100: about 14,000 steps of 256 rows. It learns to retrieve all of a sudden, near step 5,300: fewer steps give a model
that only writes. Needs books: any folder of plain texts (.txt or .txt.xz).

Shape letters: B rows, L tokens.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

from harness.assets import tiny_llama_rows as texts
from harness.assets.tiny_llama_rows import END, END_ID, VOCABULARY, WINDOW, Rows, read_books
from harness.errors import RequestError

_LEARNING_RATE = 2e-3
_WARM_UP_STEPS = 200
_DECAY_SHARE = 0.35  # of the training, at its end
_FLOOR = 0.02  # of the learning rate


def train_tokenizer(books: Sequence[str]) -> Tokenizer:
    """A byte-level BPE from the books' beginnings and the tasks' sentences; every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces = [book[at : at + 20_000] for book in books for at in range(0, min(len(book), 800_000), 20_000)]
    templates = "".join(
        (texts.NOISE, texts.INTRO, texts.NEEDLE, texts.QUESTION, texts.CHAIN_QUESTION, " VAR A = VAR B.")
    )
    tokenizer.train_from_iterator([*pieces, *[templates] * 200], trainer)
    return tokenizer


def shipped_tokenizer() -> Tokenizer:
    """The embedded model's own."""
    return Tokenizer.from_file(str(Path(__file__).parent / "tiny-llama" / "tokenizer.json"))


def new_model() -> Any:
    """The embedded model's architecture with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=64,
            max_position_embeddings=WINDOW,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            bos_token_id=END_ID,
            eos_token_id=END_ID,
            pad_token_id=END_ID,
        )
    )


@dataclass(kw_only=True)
class Budget:
    """How long a training lasts, in steps or in seconds."""

    steps: int | None = None
    seconds: float | None = None
    start: float = field(default_factory=time.monotonic)

    def done(self, step: int) -> float:
        """The share that is behind after `step` steps; the training ends at 1."""
        return step / self.steps if self.steps else (time.monotonic() - self.start) / (self.seconds or 1)

    def learning_rate(self, step: int) -> float:
        """Rises, stays, and falls to a floor over the last part."""
        warm_up = min(_WARM_UP_STEPS, max(1, self.steps // 10)) if self.steps else _WARM_UP_STEPS
        falling = min(1.0, (1 - self.done(step)) / _DECAY_SHARE)
        return _LEARNING_RATE * min(1.0, (step + 1) / warm_up) * (_FLOOR + (1 - _FLOOR) * falling)


def train(
    model: Any,
    batches: Iterator[tuple[Tensor, Tensor]],
    budget: Budget,
    *,
    device: torch.device,
    say: Callable[[str], None] = print,
) -> list[float]:
    """Trains in place; gives the loss of every step."""
    cuda = device.type == "cuda"
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05, fused=cuda
    )
    loss_of = torch.compile(_loss) if cuda else _loss
    losses: list[Tensor] = []
    while budget.done(len(losses)) < 1:
        tokens_BL, weights_BL = (part.to(device, non_blocking=True) for part in next(batches))
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate(len(losses))
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            loss = loss_of(model, tokens_BL, weights_BL)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if len(losses) % (200 if cuda else 1) == 0:
            say(f"step {len(losses)}, {time.monotonic() - budget.start:.0f} s, loss {loss.item():.3f}")
    return torch.stack(losses).tolist() if losses else []


def _loss(model: Any, tokens_BL: Tensor, weights_BL: Tensor) -> Tensor:
    logits = model(input_ids=tokens_BL[:, :-1], use_cache=False).logits.float().flatten(0, 1)
    losses = functional.cross_entropy(logits, tokens_BL[:, 1:].flatten(), reduction="none")
    weights = weights_BL[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


class _Stream(torch.utils.data.IterableDataset):
    """Batches drawn by several processes: one alone cannot feed a GPU."""

    def __init__(self, rows: Rows, size: int) -> None:
        self._rows, self._size = rows, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        return self._rows.batches(self._size, stream=worker.id if worker else 0)


def save(model: Any, tokenizer: Tokenizer, out: Path) -> None:
    """The model in bfloat16 and its tokenizer, as transformers loads them."""
    from transformers import PreTrainedTokenizerFast

    model.to(torch.bfloat16).save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END, model_max_length=WINDOW
    ).save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 the request is wrong."""
    try:
        _run(_arguments().parse_args(argv))
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    from harness.models.loading import check_device

    device = check_device(options.device)
    written = read_books(options.books)
    tokenizer = train_tokenizer(written) if options.train_tokenizer else shipped_tokenizer()
    books = [ids for ids in (tokenizer.encode(book).ids for book in written) if len(ids) > WINDOW + 1]
    if not books:
        raise RequestError(f"--books {options.books}: every book is shorter than {WINDOW + 2} tokens: add a longer one")
    torch.manual_seed(options.seed)
    model = new_model()
    rows = Rows(tokenizer=tokenizer, books=books, seed=options.seed)
    stream = _Stream(rows, options.batch_size)
    batches = iter(torch.utils.data.DataLoader(stream, batch_size=None, num_workers=options.workers))
    train(model, batches, Budget(steps=options.steps, seconds=options.seconds), device=device)
    save(model, tokenizer, options.out)
    print(options.out)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tiny_llama", description="Trains the embedded model again.")
    parser.add_argument("--books", type=Path, required=True, help="a folder of .txt or .txt.xz files")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=_positive(float), help="400 made the embedded model")
    length.add_argument("--steps", type=_positive(int))
    parser.add_argument("--batch-size", type=_positive(int), default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw rows; 14 fed the GPU")
    parser.add_argument("--train-tokenizer", action="store_true", help="a new tokenizer from the books")
    return parser


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text}: it should be positive")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
