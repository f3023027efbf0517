"""Write weights and resume points, whole or not at all, and read them without running code that they contain."""

import contextlib
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dgd import filters, json_files, seals
from dgd.files import write_bytes

DIGEST = hashlib.sha256().digest_size
"""Bytes of the checksum that a resume point begins with."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and `torch.compile` put before the names of a state dict."""


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
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        header = json_files.parse(content[8 : 8 + int.from_bytes(content[:8], "little")])
        order = json_files.parse(header.pop("__metadata__", {}).get("order", "null").encode()) or list(header)
        if sorted(order) != sorted(tensors):
            raise ValueError("the order in its metadata is that of other tensors")
        return {key: tensors[key] for key in order}
    # Besides a SafetensorError: of a type that torch has not, of a shape that a type's size does not divide, of the metadata.
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a safetensors file ({_first_line(error)})") from None


def load_networks(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Read the networks of a cell's model.safetensors, held to its seal: number -> state dict.

    Raises:
        ValueError: The file does not exist, is not what was written, is no safetensors file, or not that of a cell.
    """
    path, found = Path(path), {}
    if path.is_file():
        seals.check_seal(path.parent, [path.name])
    for key, value in load_weights(path).items():
        number, _, name = key.partition(".")
        if not re.fullmatch(r"0|[1-9]\d{0,8}", number, re.ASCII) or not name:
            raise ValueError(
                f"{path}: {key[:60]!r} is no <number of a network>.<name of a weight>; give the file of weights itself"
            )
        found.setdefault(number, {})[name] = value
    return {str(i): check_filters(found[i], path) for i in sorted(found, key=int)}


def check_filters(state: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Return a state dict whose convolution filters are finite floating-point numbers.

    Raises:
        ValueError: They are not; the message names the file and the weight.
    """
    for key, value in filters.conv_weights(state).items():
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            raise ValueError(
                f"{path}: {key[:60]} is {value.dtype} of layout {value.layout}; filters are floating-point numbers"
            )
        if not value.numel() or not value.isfinite().all():
            raise ValueError(f"{path}: {key[:60]} of shape {tuple(value.shape)} has no values, or some that are not finite")
    return state


def load_any(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of one network from a safetensors file, or from one of `torch.save` (.pt, .pth), whose code never runs.

    A state dict may be the file's content, or one of its entries where the others are no networks. What wrappers put before
    the names (`module.`, `_orig_mod.`) is taken away.

    Raises:
        ValueError: The file does not exist, is damaged, or holds no state dict, or several.
    """
    path = Path(path)
    if path.suffix not in (".pt", ".pth"):
        return check_filters(_unwrapped(load_weights(path)), path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        # From memory: a file is asked for as many bytes as the pickle declares, and would set them aside before it has them.
        content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any error
        raise ValueError(f"{path}: damaged, or not a file of weights alone ({_first_line(error)})") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}; it must be a state dict, or have one as an entry")
    found = {"": content} if _is_state(content) else {key: value for key, value in content.items() if _is_state(value)}
    if len(found) != 1:
        names = ", ".join(map(str, found)) or "none"
        raise ValueError(f"{path}: state dicts in it: {names}; save the one that is meant as a file of its own")
    (state,) = found.values()
    weights = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return check_filters(_unwrapped(weights), path)


def _is_state(value) -> bool:
    """Return whether something is a network's state dict: names, and weights among the values."""
    return isinstance(value, Mapping) and any(
        isinstance(k, str) and isinstance(v, Tensor) and v.ndim > 1 for k, v in value.items()
    )


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPERS * 2:  # compiled and then spread, or the other way round
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def _first_line(error: Exception) -> str:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "".join(c if c.isprintable() else " " for c in first)[:200]


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
        if not file.exists():
            continue
        try:
            if not file.is_file():
                raise ValueError("it is no file")
            content = memoryview(file.read_bytes())
            if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
                raise ValueError("its checksum is another one")
            state = torch.load(io.BytesIO(content[DIGEST:]), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue
        except Exception as error:  # a damaged pickle can raise any error
            print(f"{file} is damaged and is not used ({_first_line(error)})", file=sys.stderr)
            if not file.is_dir():
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
