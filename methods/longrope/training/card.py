"""The model card of an exported checkpoint: its facts in words, and no number that is not among them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.types import JSON


def card(facts: Mapping[str, Any], name: str) -> str:
    """README.md of a folder of this name, from what its `longreach.json` holds."""
    rope, method, base = facts["rope"], facts["method"], facts["base"]
    version = f" {facts['longreach']}" if facts["longreach"] else ""
    parts = [
        _front_matter(base, method),
        f"# {name}",
        f"{base['label']}, trained further with Longreach{version} so that its window of "
        f"{rope['original_max_position_embeddings']} tokens becomes {rope['target_length']}. "
        f"The weights are {facts['dtype']}.",
        "## RoPE",
        "\n".join(_rope(facts)),
        "## How it was trained",
        "\n\n".join(_training(facts["training"])),
        "## How it measured",
        _measured(facts["measured"]),
        "## Loading",
        _loading(facts, name),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(base: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    lines = ["library_name: transformers", "tags: [long-context, longreach]"]
    if base.get("is_hub_id"):
        lines.insert(1, f"base_model: {base['label']}")
    return "\n".join(["---", *lines, "---"])


def _rope(facts: Mapping[str, Any]) -> Iterator[str]:
    rope, method = facts["rope"], facts["method"]
    window = rope["original_max_position_embeddings"]
    scales = rope["attention_factor"]
    params = {key: value for key, value in method["params"].items() if value is not None}
    yield f"- Method: `{method['name']}`" + (f" with {_inline(params)}" if params else "") + "."
    if rope["inside_window"] == "original":
        yield (
            f"- Requests of at most {window} tokens, prompt and new tokens together: the original RoPE, "
            f"attention factor {scales['inside_window']:g}."
        )
        yield f"- Longer ones: rescaled frequencies, attention factor {scales['beyond_window']:g}."
    else:
        yield f"- One RoPE at every length: rescaled frequencies, attention factor {scales['beyond_window']:g}."
    if rope["start_tokens"]:
        yield f"- The first {rope['start_tokens']} positions of a longer request keep the original frequencies."


def _training(training: Mapping[str, Any]) -> Iterator[str]:
    if "steps" in training:
        yield (
            f"{training['steps']} steps, {training['n_tokens']} tokens, {training['seconds']:.0f} s; attention: "
            f"{training['attention']}."
        )
        yield _table(("bin", "tokens"), training["n_tokens_by_bin"].items())
        yield _table(("segments read under", "tokens"), training["n_tokens_by_regime"].items())
    ends = [training[name] for name in ("first_step", "last_step") if name in training]
    if ends:
        rows = [[row["step"], *(_number(row[key]) for key in ("loss", "loss_short", "loss_long"))] for row in ends]
        yield _table(("step", "loss", "short segments", "long segments"), rows)
    settings = [(f"`{key}`", f"`{value}`") for key, value in _flat(training["settings"])]
    if settings:
        yield _table(("setting", "value"), settings)
    yield f"Settings' sha256: `{training['settings_sha256']}`."


def _measured(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Nothing was measured when this card was written."
    cells = [[row["what"], _number(row["value"]), _number(row["base"]), row["n_samples"] or "-"] for row in rows]
    return _table(("what", "this checkpoint", "base model", "samples"), cells)


def _loading(facts: Mapping[str, Any], name: str) -> str:
    base = facts["base"]
    ours = f"""With Longreach, as a method on {base["label"]}, each request under its own RoPE:

```toml
[model]
name = "{base["label"]}"

[[method]]
name = "checkpoint"
path = "{name}"
```"""
    theirs = f"""With transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```"""
    limits = facts["limits"]
    if not limits:
        return f"{theirs}\n\n{ours}"
    said = "\n".join(f"- {limit}." for limit in limits)
    return f"{ours}\n\n{theirs}\n\nWhat transformers does otherwise than the training:\n\n{said}"


def _table(titles: Sequence[str], rows: Any) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _flat(value: Mapping[str, JSON], prefix: str = "") -> Iterator[tuple[str, JSON]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _inline(params: Mapping[str, JSON]) -> str:
    return ", ".join(f"`{key} = {value}`" for key, value in params.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
