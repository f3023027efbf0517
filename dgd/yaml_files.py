"""Read YAML strictly: what a person could not have meant is refused in one line instead of being read as something else."""

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

DEEPEST = 100
"""Lists and mappings inside each other: more is no config, and libyaml's stack ends somewhere."""
LARGEST = 1_000_000
"""Values of a file, each alias counted as all that it stands for."""


# The C parser, where PyYAML has it: a benchmark has thousands of these files.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML's safe loader without its surprises: see `read`."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make the value of a node, or say where it cannot be made."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise self._refused(node, f"{str(node.value)[:60]!r} cannot be read as {node.tag.rpartition(':')[2]}") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refused(node, f"{node.value} is no finite number; write a number")
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        """Make a mapping whose keys are printable texts, each there once; what `<<` merges in may be overridden."""
        seen = set()
        for name_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if name_node.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(name_node, deep=True)
            if not isinstance(name, str):
                shown = name_node.value if isinstance(name_node, yaml.ScalarNode) else "a list or a mapping"
                remedy = f'write "{shown}"' if isinstance(name, Hashable) else "write a text"
                raise self._refused(name_node, f"the key {shown} is no text; {remedy}")
            if not name.isprintable():  # messages, paths and tables show keys
                raise self._refused(name_node, f"the key {name!r} has a character that cannot be seen; leave it out")
            if name in seen:
                raise self._refused(name_node, f"the key {name!r} is there twice; keep one of them")
            seen.add(name)
        return super().construct_mapping(node, deep)

    @staticmethod
    def _refused(node: yaml.Node, message: str) -> yaml.constructor.ConstructorError:
        return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


def read(path: str | Path) -> Any:
    """Return what a YAML file holds.

    The file is UTF-8; keys of mappings are printable texts and none is there twice; numbers are finite; aliases stay small.

    Raises:
        ValueError: In one line, with the place in the file, what is wrong with it.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except IsADirectoryError:
        raise ValueError("a folder; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse(text)


def read_mapping(path: str | Path) -> dict:
    """Return the mapping that a YAML file holds; as `read`, and the message names the file.

    Raises:
        ValueError: In one line, what is wrong with the file.
    """
    try:
        found = read(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: it holds {_line(repr(found))[:60]}; it must be a mapping of keys")
    return found


def parse(text: str) -> Any:
    """Return what a text in YAML holds; as `read`."""
    try:
        _check_size(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        known = isinstance(error, yaml.constructor.ConstructorError) and error.context is None
        reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise ValueError(f"{place}{'' if known else 'not YAML: '}{_line(reason)}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {_line(str(error))}") from None


def _check_size(text: str) -> None:
    """Refuse what is nested too deeply, or grows too large by its aliases, before anything is made of it.

    Raises:
        ValueError: It is.
        yaml.YAMLError: The text is not YAML.
    """
    open_: list[list] = [[None, 0]]  # the anchor and the values so far of each list and mapping that is not closed
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append([event.anchor, 1])
            if len(open_) > DEEPEST:
                raise ValueError("not YAML: nested too deeply")
            continue
        size = 0
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
            sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in [anchor for anchor, _ in open_]:
                raise ValueError(f"line {event.start_mark.line + 1}: the alias *{event.anchor} holds itself; write it out")
            size = sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            size = sizes[event.anchor] = 1
        open_[-1][1] += size
        if open_[-1][1] > LARGEST:
            raise ValueError(f"line {event.start_mark.line + 1}: aliases make more than {LARGEST:,} values of it")


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:200]
