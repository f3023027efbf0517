"""Read JSON strictly: what no writer of ours could have written is refused in one line.

A *form* says what a value must be: a `Value` for one value; a mapping of names to forms, in which a name that ends with `?` may
be missing; a list of one form for each of its items; `Each` for a mapping with any names; `Null` for a form or null.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgd import keys

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Value:
    """The form of one value: its type hint, and what is known of it besides, as of a key."""

    def __init__(self, hint: Any, **about):
        self.hint, self.key = hint, keys.Key("", **about)


@dataclass(frozen=True)
class Each:
    """The form of a mapping with any names: that of its values."""

    form: Any


@dataclass(frozen=True)
class Null:
    """A form, or null."""

    form: Any


def problems(value: Any, form: Any, where: str = "") -> Iterator[str]:
    """Say in a line each where a value is not what a form says, and what would be right.

    Args:
        value: What JSON holds.
        form: Its form.
        where: The name of the place; "" for the whole.
    """
    if isinstance(form, Value):
        yield from keys.of_type(form.hint, value, where, form.key)
    elif isinstance(form, Null):
        yield from () if value is None else problems(value, form.form, where)
    elif isinstance(form, list):
        if not isinstance(value, list):
            yield f"{where} is {keys.short(value)}; it must be a list"
        else:
            for i, item in enumerate(value):
                yield from problems(item, form[0], f"{where}[{i}]")
    elif not isinstance(value, Mapping):
        yield f"{where or 'the whole'} is {keys.short(value)}; it must be a mapping of keys"
    else:
        prefix = f"{where}." if where else ""
        names = dict.fromkeys(value, form.form) if isinstance(form, Each) else form
        for name, own in names.items():
            plain = name.removesuffix("?")
            if plain in value:
                yield from problems(value[plain], own, prefix + keys.spelled(plain))
            elif plain == name:
                yield f"{prefix}{name} is missing"


def read(path: str | Path, remedy: str) -> dict:
    """Return the mapping that a JSON file holds.

    The file is UTF-8; no key of a mapping is there twice; numbers are finite; texts are text.

    Args:
        path: The file.
        remedy: What to do where it is damaged, for the message.

    Raises:
        FileNotFoundError: It is not there, or is no file.
        ValueError: In one line, what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return parse_mapping(path.read_bytes(), str(path), remedy)


def parse(content: bytes) -> Any:
    """Return what the bytes of a JSON file hold; as `read`.

    Raises:
        ValueError: In one line, why it cannot be read.
    """
    try:
        text = content.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_mapping, parse_constant=_refuse, parse_float=_number)
        if SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8, byte {error.start}") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it is half a character") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def parse_mapping(content: bytes | str, where: str, remedy: str) -> dict:
    """Return the mapping that JSON holds.

    Args:
        content: The JSON.
        where: Its place, for the message: the path of its file.
        remedy: What to do where it is damaged.


    Raises:
        ValueError: In one line, what is wrong with it.
    """
    try:
        found = parse(content.encode() if isinstance(content, str) else content)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds a {type(found).__name__}; it must be a mapping of keys; {remedy}")
    return found


def _mapping(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"the key {ascii(twice)[:60]} is there twice")
    return found


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:60]} is too large a number")
    return value
