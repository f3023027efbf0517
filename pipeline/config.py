"""What the Snakefile knows when it is parsed: the checked config and code fingerprints. Nothing here needs torch."""

import difflib
import re
from collections.abc import Iterable
from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import jsonschema
import yaml

from dgd import config as semantics
from dgd.config import ConfigError

PAPERS = Path(__file__).parents[1] / "papers"
SCHEMA = Path(__file__).parent / "schemas" / "config.schema.yaml"
WORDS = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of keys",
    "null": "null",
}
LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
    "pattern": "a name of letters, digits, `_`, `-`, `.` that matches",
}


def schema() -> dict:
    """The schema of a benchmark's config."""
    return yaml.safe_load(SCHEMA.read_text())


def resolve(config: dict, source: str, folders: bool = True) -> dict:
    """Check a config and write every default out.

    Args:
        config: A benchmark as read from its YAML.
        source: The file's name, for the messages.
        folders: Folders of images must be there.

    Returns:
        The filled config, a new object.

    Raises:
        ConfigError: One line for each mistake: the file, the key, and what would be right.
    """
    rules = schema()
    errors = jsonschema.Draft202012Validator(rules).iter_errors(config)
    errors = sorted(errors, key=lambda error: [str(part) for part in error.absolute_path])
    lines = dict.fromkeys(line for error in errors for line in _say(error))
    if lines:
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines))
    semantics.check(config, source, folders)
    filled = _fill(config, rules)
    for name in filled["papers"]:
        if not (PAPERS / f"{name}.yaml").is_file():
            raise ConfigError(
                f"{source}: papers: no file papers/{name}.yaml{_nearest(name, [p.stem for p in PAPERS.glob('*.yaml')])}"
            )
    return filled


def load(path: str | Path, folders: bool = True) -> dict:
    """Read, check and fill a benchmark's YAML; raises `ConfigError` as `resolve` does."""
    return resolve(semantics.read(path), str(path), folders)


def typed(value):
    """A value of `--config` as YAML reads it: of what stands in braces or brackets Snakemake makes texts."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(typed, value))
    return yaml.safe_load(value) if isinstance(value, str) else value


def fingerprint(*paths: str | Path) -> str:
    """SHA-256 of files and of the Python files in folders: as a rule's param it makes outputs stale when code changes.

    Snakemake itself sees a shell command's text, not the modules that the command imports.
    """
    files = [file for path in map(Path, paths) for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return sha256(b"".join(f"{file}\0".encode() + file.read_bytes() for file in files)).hexdigest()


def listing(dataset: str) -> str:
    """A hash of the folders below `imagefolder:<path>` and their times, "" for other data sets.

    Files that come or go change their folder's time. A file that is changed in place does not: reading a million files at each
    start would take longer than the plan.
    """
    kind, _, path = dataset.partition(":")
    if kind != "imagefolder":
        return ""
    root = Path(path).expanduser()
    folders = sorted((str(f.relative_to(root)), f.stat().st_mtime_ns) for f in [root, *root.glob("*/"), *root.glob("*/*/")])
    return sha256(repr(folders).encode()).hexdigest()


def one_of(paths: Iterable[str]) -> str:
    """A regular expression that matches these paths and nothing else.

    It is factored by folder: Snakemake tries it on every file, and ten thousand alternatives in a row take minutes.
    """
    below, heads_of = {}, {}
    for path in paths:
        head, *rest = path.split("/", 1)
        below.setdefault(head, []).extend(rest)
    for head, rests in below.items():
        heads_of.setdefault(f"/{one_of(rests)}" if rests else "", []).append(re.escape(head))
    parts = [f"(?:{'|'.join(heads)}){tail}" for tail, heads in heads_of.items()]
    return f"(?:{'|'.join(parts)})" if parts else "(?!)"


def _fill(config: dict, rules: dict) -> dict:
    filled = {}
    for key, rule in rules["properties"].items():
        if key not in config and "default" not in rule:
            continue
        value = deepcopy(config.get(key, rule.get("default")))
        filled[key] = _fill(value, rule) if "properties" in rule else value
    return filled


def _say(error: jsonschema.ValidationError) -> list[str]:
    """The mistake in plain words; one line for each unknown or missing key."""
    where = _name(error.absolute_path)
    value, wanted, rule = error.instance, error.validator_value, error.validator
    prefix = f"{where}." if where else ""
    if rule == "additionalProperties":
        known = list(error.schema["properties"])
        return [f"{prefix}{key}: unknown key{_nearest(key, known)}" for key in value if key not in known]
    if rule == "required":
        return [f"{prefix}{key} is missing" for key in wanted if key not in value]
    if rule == "type":
        words = " or ".join(WORDS[t] for t in ([wanted] if isinstance(wanted, str) else wanted))
        return [f"{where or 'a benchmark'} is {value!r}; it must be {words}{_number_hint(value, words)}"]
    if rule == "enum":
        return [f"{where} is {value!r}; it must be one of {', '.join(map(str, wanted))}"]
    if rule in LIMITS:
        return [f"{where} is {value!r}; it must be {LIMITS[rule]} {wanted}"]
    if rule == "minItems":
        return [f"{where} is empty; it needs at least {wanted}"]
    if rule == "uniqueItems":
        return [f"{where} is {value!r}; an item is there twice"]
    if rule in ("minProperties", "maxProperties"):
        return [f"{where} is {value!r}; it must be a name or one `name: {{base: ..., ...}}` mapping"]
    return [f"{where}: {error.message}"]


def _name(path) -> str:
    """`recipe.lr`, `pairs[0].student`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def _number_hint(value, words: str) -> str:
    """YAML reads 5e-4 as a text; say so instead of leaving the reader to wonder."""
    if isinstance(value, str) and "number" in words:
        try:
            float(value)
        except ValueError:
            return ""
        return f" (YAML takes {value} for a text, write {float(value)!r})"
    return ""
