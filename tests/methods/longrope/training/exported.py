"""Exported folders of small models."""

import json
from pathlib import Path

from methods.longrope.training.export import export_checkpoint

FACTORS = {"rescale_factors": [2.0 ** (pair / 31) * 4 for pair in range(32)], "attention_factor": 1.2}


def factors_file(folder: Path, **changes) -> str:
    """Factors for 32 pairs."""
    path = folder / "found.json"
    path.write_text(json.dumps(FACTORS | changes))
    return str(path)


def trained_weights(model, folder: Path, noise: float = 0.02) -> Path:
    """A safetensors file as a training leaves it: float32, and not the model's own numbers."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    path = folder / "weights-1.safetensors"
    moved = {
        name: p.detach().float() * (1 + noise * torch.randn(p.shape, generator=generator))
        for name, p in model.hf.named_parameters()
    }
    save_file(moved, path)
    return path


def exported(
    folder: Path, model, method, *, name: str, target_length: int, short_rope: str = "original", **more
) -> Path:
    """A folder of weights near the model's."""
    work = folder.parent
    work.mkdir(parents=True, exist_ok=True)
    return export_checkpoint(
        folder,
        base=model,
        weights=[trained_weights(model, work)],
        method_name=name,
        method=method,
        target_length=target_length,
        short_rope=short_rope,
        **{"settings": {"learning_rate": 2e-5}, "dtype": "float32"} | more,
    )
