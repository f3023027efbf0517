"""Write weights and resume points, whole or not at all, and read them without running code that they contain."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from dgd.files import write_bytes


def save_weights(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, with the order of their keys in the file's metadata."""
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_bytes(path, safetensors.torch.save(plain, metadata={"order": json.dumps(list(plain))}))


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read safetensors in the order in which `save_weights` was given them, which safetensors itself does not keep.

    Raises:
        ValueError: The file does not exist or is no safetensors file.
    """
    try:
        content = Path(path).read_bytes()
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        order = json.loads(header.pop("__metadata__", {}).get("order", "null")) or header
        return {key: tensors[key] for key in order}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from None


def save_state(path: str | Path, state: Mapping) -> None:
    """Write a resume point: a nested state of tensors, numbers and strings."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_bytes(path, buffer.getvalue())


def load_state(path: str | Path, stamp: str) -> dict | None:
    """Read a resume point with `weights_only=True`, so that no code in the file can run.

    Returns:
        The state, or None if the file does not exist, is damaged, or was written under another stamp (another config or other
        code); training then starts from the beginning.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle can raise any error; a resume point that cannot be read counts as absent
        return None
    return state if isinstance(state, dict) and state.get("stamp") == stamp else None
