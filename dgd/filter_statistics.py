"""Filter statistics of a network, wherever its weights are: in a cell's folder, in a file, or in timm."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dgd import filters, keys

SUFFIXES = (".safetensors", ".pt", ".pth", ".npz", ".bin", ".ckpt")


def filter_rows(network: str, baseline: str | None = None) -> tuple[list[dict], str]:
    """Return a row for each network and threshold, and which weights a timm name stands for.

    Args:
        network: A cell's folder, a file of weights, or a name of timm.
        baseline: Another one, whose first network says which filters are invalid; by default each network itself does.

    Raises:
        ValueError: There is no such network, its file is damaged, or it has no convolution filters.
    """
    reference = next(iter(networks(baseline)[0].values())) if baseline else None  # the first network is the reported one
    found, remark = networks(network)
    rows = []
    for name, state in found.items():
        norms = filters.l1_norms(state)
        if not norms:
            raise ValueError(f"{network}: no convolution filters in it")
        against = filters.l1_norms(reference) if reference else norms
        for threshold in filters.THRESHOLDS[:2]:
            row = {"network": name, "filters": len(filters.flatten(norms)), "threshold": threshold}
            row["invalid ratio"] = filters.invalid_ratio(norms, threshold)
            for reading in ("rank", "position"):
                means = filters.mean_l1(norms, against, threshold, reading)
                row |= {f"{kind} L1 ({reading})": mean for kind, mean in zip(("valid", "invalid"), means, strict=True)}
            rows.append(row)
    return rows, remark


def networks(name: str) -> tuple[Mapping[str, Mapping[str, Tensor]], str]:
    """Return number -> state dict of the networks of a folder, file or timm name, and of the last which weights they are.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    from dgd.train import checkpoint

    path = Path(name)
    if path.is_dir():
        if (path / "config.yaml").is_file() and not (path / "model.safetensors").is_file():
            raise ValueError(
                f"{path / 'model.safetensors'}: no such file; committed results come without weights, train the cell first"
            )
        return checkpoint.load_networks(path / "model.safetensors"), ""
    if path.exists() or len(path.parts) > 1 or path.suffix in SUFFIXES:
        return {"": checkpoint.load_any(path)}, ""
    return _of_timm(name)


def _of_timm(name: str) -> tuple[Mapping[str, Mapping[str, Tensor]], str]:
    import timm

    from dgd import models

    if not timm.is_model(name):
        raise ValueError(f"{name}: no file, no folder, and no network of timm{keys.nearest(name, models.registered())[:200]}")
    weights = _cached(name)
    if weights:
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
        return {"": network.state_dict()}, f"{name}: pretrained weights, {weights}"
    return {
        "": timm.create_model(name).state_dict()
    }, f"{name}: a fresh initialisation; no pretrained weights are in timm's cache"


def _cached(name: str) -> Path | None:
    """Return the file of the pretrained weights of a network of timm where it was downloaded before."""
    import timm
    import torch
    from huggingface_hub import try_to_load_from_cache

    about = timm.get_pretrained_cfg(name)
    if about is None:
        return None
    if about.hf_hub_id:
        for file in ("model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(about.hf_hub_id, file)
            if isinstance(found, str):
                return Path(found)
    if about.url:
        file = Path(torch.hub.get_dir()) / "checkpoints" / about.url.rpartition("/")[2]
        return file if file.is_file() else None
    return None
