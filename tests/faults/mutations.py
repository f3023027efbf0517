"""Damage a file as a machine or a person would: what it holds (`structural`), or its bytes (`damaged`).

A change is three numbers: what is done, where, and with what; each is taken modulo what there is to choose from, so that
hypothesis can draw and shrink them without knowing the file.
"""

import copy
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml

Change = tuple[int, int, int]

DEEP = "@deep@"
"""Stands for a hundred thousand lists in each other, which no writer can write."""

VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3.5, -0.5, 0.1, 99.9, 1e308, -1e308, 10**40, -(2**63), 2**31, 1e-300),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        "x",
        "1",
        "nan",
        "é",
        "日本",
        "a\nb",
        "\0",
        "\ud800",
        "x" * 300,
        DEEP,
    ),
    *(
        [],
        [[]],
        [None],
        [1, 1],
        ["a"],
        {},
        {"a": 1},
        {"": None},
        [{}],
        {"last": None},
        "finished",
        "diverged",
        "../..",
        "0",
        "-1",
    ),
)
NAMES = ("", "a", "status", "top1", "\0", "x" * 200, "é", "\n", "seed", "__metadata__", "<<", "1")


class Twin(str):
    """A key of a mapping that is there a second time."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other

    def __ne__(self, other):
        return self is not other


# ---------------------------------------------------------------------------------------------- what a file holds


def places(node, path=()) -> list[tuple]:
    """Return the paths of all keys and items."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return ([path] if path else []) + [place for key, child in children for place in places(child, (*path, key))]


def changed_content(content, changes: list[Change], values=VALUES):
    """Return mappings and lists with one to three of them changed; `values` are what is put in."""
    content = {"": copy.deepcopy(content)}
    for how, where, what in changes:
        found = places(content)[1:] or [("",)]
        *path, key = found[where % len(found)]
        parent = content
        for step in path:
            parent = parent[step]
        value, other, name = parent[key], copy.deepcopy(values[what % len(values)]), NAMES[what % len(NAMES)]
        match how % 9:
            case 0 | 1:
                parent[key] = other
            case 2 if path:
                del parent[key]
            case 3 if isinstance(parent, dict):
                parent[name] = other
            case 4 if isinstance(parent, dict) and path:
                parent[Twin(key)] = other if what % 2 else copy.deepcopy(value)
            case 5 if isinstance(parent, dict) and path:
                parent[name] = parent.pop(key)
            case 6:
                parent[key] = [value] if what % 2 else {name: value}
            case 7 if isinstance(parent, list):
                parent.insert(what % (len(parent) + 1), copy.deepcopy(value))
            case 8 if isinstance(value, list) and len(value) > 1:
                value[0], value[-1] = value[-1], value[0]
            case _:
                another = found[what % len(found)]
                node = content
                for step in another:
                    node = node[step]
                parent[key] = copy.deepcopy(node)
    return content[""]


def deep(text: str) -> str:
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(DEEP, "[" * 100_000 + "]" * 100_000)


def json_file(content: bytes, changes: list[Change]) -> bytes:
    return deep(json.dumps(changed_content(json.loads(content), changes), indent=2)).encode("utf-8", "surrogatepass")


class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    """YAML that has no aliases, and knows keys that are there twice."""

    def ignore_aliases(self, data):
        return True


Dumper.add_representer(Twin, lambda dumper, data: dumper.represent_str(str(data)))
WITHOUT_HALVES = tuple(value for value in VALUES if value != "\ud800")


def yaml_file(content: bytes, changes: list[Change]) -> bytes:
    changed = changed_content(yaml.safe_load(content), changes, WITHOUT_HALVES)
    return deep(yaml.dump(changed, Dumper=Dumper, sort_keys=False)).encode()


TEXTS = (
    "",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e999",
    "101",
    "x",
    "1_000",
    "٣",
    "é",
    '"',
    "\0",
    "3.5",
    " 1",
    "finished",
    "9" * 400,
)


def csv_file(content: bytes, changes: list[Change]) -> bytes:
    """Change the rows of a table, of which the first has the names."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    for how, where, what in changes:
        row = where % len(rows)
        column = (where // len(rows)) % max(map(len, rows))
        cell = rows[row][column : column + 1]
        match how % 9:
            case 0 | 1 if cell:
                rows[row][column] = TEXTS[what % len(TEXTS)]
            case 2 if len(rows) > 1:
                del rows[row]
            case 3:
                rows = [line[:column] + line[column + 1 :] for line in rows]
            case 4:
                rows.insert(what % (len(rows) + 1), list(rows[row]))
            case 5:
                rows = [line[: column + 1] + line[column:] for line in rows]
            case 6 if cell:
                del rows[row][column]
            case 7:
                rows[row], rows[what % len(rows)] = rows[what % len(rows)], rows[row]
            case 8:
                for line in rows[1:]:
                    if len(line) > column:
                        line[column] = TEXTS[what % len(TEXTS)]
        rows = rows or [[""]]
    return "\n".join([*(",".join(line) for line in rows), ""]).encode("utf-8", "surrogatepass")


NUMBERS = (float("nan"), float("inf"), -1.0, 0.0, 1e30, 255.0)
TYPES = ("<f2", "<f4", ">f8", "<i8", "|u1", "|b1", "<U3", "|S2", "<c8", "|O", "<M8[s]")


def changed_array(array: np.ndarray, what: int, kind: int) -> np.ndarray:
    """Return an array of another type, another shape, another length, in another order, or with other numbers."""
    match kind % 7:
        case 0:
            with np.errstate(all="ignore"):
                try:
                    return array.astype(TYPES[what % len(TYPES)])
                except (TypeError, ValueError):
                    return array.astype("|O")
        case 1:
            return array.reshape(-1, 1) if what % 2 else array.reshape(1, *array.shape)
        case 2:
            return array[: what % (len(array) + 1)] if array.ndim else array.reshape(1)
        case 3:
            return array[::-1] if array.ndim else array
        case 4:
            flat = array.copy().reshape(-1)
            if flat.size and flat.dtype.kind in "fiu":
                with np.errstate(all="ignore"):
                    flat[what % flat.size] = np.array(NUMBERS[what % len(NUMBERS)]).astype(flat.dtype)
            return flat.reshape(array.shape)
        case 5:
            return np.concatenate([array, array]) if array.ndim else array
        case _:
            return array.sum() if array.dtype.kind in "fiu" and array.size else np.zeros(0)


def changed_arrays(arrays: dict, changes: list[Change], change: Callable) -> dict:
    """Return named arrays with some dropped, renamed, exchanged or changed."""
    arrays = dict(arrays)
    for how, where, what in changes:
        names = list(arrays) or [""]
        name, other = names[where % len(names)], names[what % len(names)]
        match how % 8:
            case 0 if arrays:
                del arrays[name]
            case 1 if arrays:
                arrays[(*NAMES, "l1/0/x", "l1/x/a", "l1/-1/a", "l1/99/a", "l1/0")[what % 17] or "x"] = arrays.pop(name)
            case 2 if arrays:
                arrays[name], arrays[other] = arrays[other], arrays[name]
            case 3 if arrays:
                arrays = {one: arrays[one] for one in sorted(arrays, key=lambda one: (one != name, one))}
            case _ if arrays:
                arrays[name] = change(arrays[name], what, where + how)
    return arrays


def npz_file(content: bytes, changes: list[Change]) -> bytes:
    """Change the arrays of an .npz; one time in eight the header of one, or a name that is there twice."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = changed_arrays({name: archive[name] for name in archive.files}, changes, changed_array)
    how, where, what = changes[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)[what % 3]) as archive:
        for i, (name, array) in enumerate(arrays.items()):
            npy = io.BytesIO()
            np.lib.format.write_array(npy, np.asanyarray(array), allow_pickle=True)
            packed = npy.getvalue()
            if how % 8 == 7 and i == where % len(arrays):
                packed = _header(packed, what)
            archive.writestr(f"{name.replace(chr(0), '0')}.npy", packed)
            if how % 16 == 6 and i == where % len(arrays):
                archive.writestr(f"{name.replace(chr(0), '0')}.npy", packed)
    return buffer.getvalue()


HEADERS = (
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': 3, }",
    b"{'descr': '<f9', 'fortran_order': False, 'shape': (3,), }",
    b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (3,), }",
    b"(" * 3000,
    b"",
    b"\xff\xfe",
)


def _header(npy: bytes, what: int) -> bytes:
    start = 10 + int.from_bytes(npy[8:10], "little")
    header = HEADERS[what % len(HEADERS)] + b"\n"
    return npy[:8] + len(header).to_bytes(2, "little") + header + npy[start:]


TORCH_TYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)


def changed_tensor(tensor, what: int, kind: int):
    """Return a tensor that was changed like an array, or something else."""
    if not isinstance(tensor, torch.Tensor):
        return VALUES[what % len(VALUES)]
    match kind % 6:
        case 0:
            return tensor.to(TORCH_TYPES[what % len(TORCH_TYPES)])
        case 1:
            return tensor.reshape(-1, 1) if what % 2 else tensor[None]
        case 2:
            return tensor[: what % (len(tensor) + 1)].clone() if tensor.ndim else tensor.reshape(1)
        case 3:
            return tensor.flip(0) if tensor.ndim else tensor
        case 4:
            flat = tensor.clone().reshape(-1)
            if flat.numel() and flat.is_floating_point():
                flat[what % flat.numel()] = NUMBERS[what % len(NUMBERS)]
            elif flat.numel() and flat.dtype != torch.bool:
                flat[what % flat.numel()] = 0 if flat.dtype == torch.uint8 else -1
            return flat.reshape(tensor.shape)
        case _:
            return torch.zeros(0)


def safetensors_file(content: bytes, changes: list[Change]) -> bytes:
    """Change the tensors of a safetensors file or, every other time, its header."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    if changes[0][0] % 2:
        own = deep(json.dumps(changed_content(header, changes))).encode("utf-8", "surrogatepass")
        return len(own).to_bytes(8, "little") + own + content[start:]
    tensors = changed_arrays(safetensors.torch.load(content), changes, changed_tensor)
    tensors = {key: value.clone().contiguous() for key, value in tensors.items() if isinstance(value, torch.Tensor)}
    return safetensors.torch.save(tensors, metadata=header.get("__metadata__"))


def torch_file(content: bytes, changes: list[Change]) -> bytes:
    """Change the state of a file of `torch.save`, which is written in its old form one time in three."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    state = changed_arrays(state, changes, changed_tensor)
    how, where, what = changes[-1]
    if how % 5 == 4:
        state = ({"model": state}, [state], {"a": state, "b": dict(state)}, {1: state}, "x")[where % 5]
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=bool(what % 3))
    return buffer.getvalue()


STRUCTURAL = {
    "json": json_file,
    "yaml": yaml_file,
    "csv": csv_file,
    "npz": npz_file,
    "safetensors": safetensors_file,
    "torch": torch_file,
}
"""By the kind of a file, what changes what it holds."""


# --------------------------------------------------------------------------------------------------- the bytes of a file


def flip(content: bytes, where: int, what: int) -> bytes:
    place = where % max(len(content), 1)
    return content[:place] + bytes([content[place] ^ (1 << what % 8)]) + content[place + 1 :] if content else b"\0"


def insert(content: bytes, where: int, what: int) -> bytes:
    place, own = (
        where % (len(content) + 1),
        (b"\xff", b"\0", b"\n", b'"', b"{", b"}", b",", b":", b"9" * 30, b"PK\3\4", b"-", b" "),
    )
    return content[:place] + own[what % len(own)] + content[place:]


def delete(content: bytes, where: int, what: int) -> bytes:
    place = where % max(len(content), 1)
    return content[:place] + content[place + 1 + what % 20 :]


def truncate(content: bytes, where: int, what: int) -> bytes:
    return content[: where % (len(content) + 1)]


def zero(content: bytes, where: int, what: int) -> bytes:
    place, count = where % max(len(content), 1), 1 + what % 512
    return content[:place] + bytes(len(content[place : place + count])) + content[place + count :]


def splice(content: bytes, where: int, what: int) -> bytes:
    first, second = where % (len(content) + 1), what % (len(content) + 1)
    return content[:first] + content[second:]


def replace(content: bytes, where: int, what: int) -> bytes:
    place = where % max(len(content), 1)
    own = (
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\xed\xa0\x80",
        b"1e999",
        b"NaN",
        b"null",
        b"[[[[",
    )
    return content[:place] + own[what % len(own)] + content[place + len(own[what % len(own)]) :]


def whole(content: bytes, where: int, what: int) -> bytes:
    """Change a file as a whole: empty, with a byte order mark, other ends of lines, another encoding, sizes that are huge."""
    text = content.decode("utf-8", "replace")
    made = (
        *(
            b"",
            b"\xef\xbb\xbf" + content,
            content.replace(b"\n", b"\r\n"),
            text.encode("utf-16"),
            text.encode("latin-1", "replace"),
        ),
        *(content + content, bytes(len(content)), b"\n", b"null", b"[]", b"0", b"{}", b"PK\5\6" + bytes(18)),
        *(
            (1 << what % 63).to_bytes(8, "little") + content[8:],
            content[:-22] + b"\xff" * 22,
            content + b"\0" * (1 + where % 999),
        ),
    )
    return made[where % len(made)]


BYTES = (flip, insert, delete, truncate, zero, splice, replace, whole)


def damaged(content: bytes, changes: list[Change]) -> bytes:
    """Return the bytes of a file after some changes."""
    for how, where, what in changes:
        content = BYTES[how % len(BYTES)](content, where, what)
    return content


# ------------------------------------------------------------------------------------------- what lies in a file's place


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


INSTEAD = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
