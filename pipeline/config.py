"""What the Snakefile knows when it is parsed: the benchmark, and patterns of its paths; all without torch."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from snakemake.utils import update_config

from dgd import config, yaml_files
from dgd.benchmark import Benchmark
from dgd.config import ConfigError


def resolve(files: Iterable[str | Path], given: Mapping | None = None, folders: bool = True) -> Benchmark:
    """Return the benchmark of Snakemake's --configfile and --config.

    The files are read again: Snakemake's own reading keeps the last of two equal keys and takes NaN for a number.

    Args:
        files: Configs, of which a later one replaces keys of an earlier one.
        given: What --config gives, which replaces keys of all files.
        folders: Folders of images must be there.

    Raises:
        ConfigError: As `dgd.config.load`.
    """
    files = list(map(str, files))
    merged: dict = {}
    for file in files:
        update_config(merged, config.read(file))
    update_config(merged, typed(dict(given or {})))
    return config.check(merged, ", ".join(files) or "config", folders)


def typed(value):
    """Return a value of --config as YAML reads it: of what stands in braces or brackets Snakemake makes texts.

    Raises:
        ConfigError: A text in it is not strict YAML.
    """
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(typed, value))
    try:
        return yaml_files.parse(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"--config: {value!r}: {error}") from None


def one_of(paths: Iterable[str]) -> str:
    """Return a regular expression that matches these paths and nothing else.

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
