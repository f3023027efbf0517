"""Write weights and resume points, whole or not at all, and read them without running code that they contain."""

import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from dgd.files import write_bytes

DIGEST = hashlib.sha256().digest_size
"""Bytes of the checksum that a resume point begins with."""


def save_weights(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, with the order of their keys in the file's metadata."""
    write_bytes(path, weights_bytes(tensors))


def weights_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return what `save_weights` writes."""
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    return safetensors.torch.save(plain, metadata={"order": json.dumps(list(plain))})


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
    """Write a resume point: a nested state of tensors, numbers and strings. The one before it is kept beside it.

    The file begins with the SHA-256 of what `torch.save` gives.
    """
    path, buffer = Path(path), io.BytesIO()
    buffer.write(bytes(DIGEST))
    torch.save(dict(state), buffer)
    content = buffer.getbuffer()  # no copy: a state is as large as several networks
    content[:DIGEST] = hashlib.sha256(content[DIGEST:]).digest()
    with contextlib.suppress(FileNotFoundError):  # until the new one is whole the old one is there, under one name or the other
        os.replace(path, _before(path))
    write_bytes(path, content)


def load_state(path: str | Path, stamp: str) -> dict | None:
    """Read a resume point with `weights_only=True`, so that no code in the file can run.

    One that is damaged is not used, which is said on stderr; the one before it is.

    Returns:
        The state, or None if neither file exists, is whole, and was written under this stamp (the same config and code);
        training then starts from the beginning.
    """
    for file in (Path(path), _before(Path(path))):
        try:
            content = memoryview(file.read_bytes())
            if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
                raise ValueError("its checksum is another one")
            state = torch.load(io.BytesIO(content[DIGEST:]), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue
        except Exception as error:  # a damaged pickle can raise any error
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"{file} is damaged and is not used ({why})", file=sys.stderr)
            file.unlink()  # else it would become the one before the next, in place of a whole one
            continue
        if isinstance(state, dict) and state.get("stamp") == stamp:
            return state
    return None


def remove_state(path: str | Path) -> None:
    """Delete a resume point and the one before it."""
    for file in (Path(path), _before(Path(path))):
        file.unlink(missing_ok=True)


def _before(path: Path) -> Path:
    """Return the place of the resume point before the last one."""
    return path.with_name(f"before.{path.name}")
