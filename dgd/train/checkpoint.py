"""Files that are either whole or not there, and that are read without running anything that is in them."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically: a reader, or a run after a crash, sees the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a killed process leaves, the next one overwrites
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Mapping) -> None:
    """`write_text` of JSON with two-space indents; NaN is refused because JSON has none."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def save_weights(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, contiguous, on the CPU. The order of the keys is kept in the file's metadata."""
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_bytes(path, safetensors.torch.save(plain, metadata={"order": json.dumps(list(plain))}))


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read safetensors, in the order in which `save_weights` was given them (safetensors itself promises none).

    Raises:
        ValueError: The file is not there or is no safetensors file.
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
    """Write a nested state of tensors, numbers and strings (a resume point)."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_bytes(path, buffer.getvalue())


def load_state(path: str | Path, stamp: str) -> dict | None:
    """Read a resume point with `weights_only=True`; nothing in the file can run.

    Returns:
        The state, or None when there is no file, it is damaged, or it was written under another stamp (another config or
        other code): training then starts over.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # what a damaged pickle raises is open-ended; a resume point that cannot be read is none
        return None
    return state if isinstance(state, dict) and state.get("stamp") == stamp else None
