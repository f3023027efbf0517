"""What decides a cell's result, and whether a result is still the one that is asked for.

A cell's identity is its typed fields, the code that it uses and its teachers' identities; the prepared data's hash stands
beside it. The cell's provenance.json records it. `status` compares the two for everyone who asks: Snakemake, `dgd-bench`, DVC
(through Snakemake), the tables and the report. Nothing here needs torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from dgd import codehash, json_files, keys, methods, plugins, source_files, terms, yaml_files
from dgd.cell import EXCHANGES, Cell, Data, Generated, Recipe, TeacherFile, slug
from dgd.codehash import code as code
from dgd.codehash import digest as digest
from dgd.codehash import files as code_files  # noqa: F401
from dgd.files import hash_if_there as file_hash
from dgd.files import json_bytes, locked, remove, write_bytes
from dgd.json_files import Each, Value
from dgd.seals import RECORD, check_seal, root_of, sealed

OUTPUTS = (
    "metrics.json",
    "history.csv",
    "config.yaml",
    RECORD,
    "predictions.npz",
    "filters.npz",
    "model.safetensors",
)
"""What a cell leaves in its folder."""
SMALL = ("metrics.json", "history.csv", "config.yaml")
"""Those that a status holds to the cell's seal; who reads the others does so, because hashing those of all cells takes long."""
WEIGHTS = "model.safetensors"
ENTRY = "dgd.train.cell"
"""The module that trains a cell."""
APART = (
    # They hold or check typed fields, which are compared by their values.
    *("dgd", "dgd.cell", "dgd.keys", "dgd.methods", "dgd.plugins", "dgd.precision", "dgd.terms"),
    # They record, and change no result.
    *("dgd.codehash", "dgd.identity", "dgd.provenance", "dgd.seals", "dgd.signals"),
    *("dgd.train.live", "dgd.train.memory", "dgd.train.outcomes"),
    # It refuses files, and changes nothing that it reads.
    "dgd.json_files",
    # What they make is compared by its content.
    *("dgd.data", "dgd.data.preparation", "dgd.data.sources", "dgd.data.spoken", "dgd.source_files"),
)
"""Modules that a training imports and that are no part of the code of its identity."""
READER = "dgd.data.sources"
"""What reads a folder's images while a network trains: part of the code of cells of folders only."""
PLACE = ("format", "name", "arguments", "seed", "files", "origin", "fingerprint", "manifest_sha256", "sealed")
"""Keys of a data set's manifest that say where it comes from, not what it holds."""
MISSING = "is not set"
IDENTITY = {
    **{"hash": Value(str), "fields": Each(Value(Any)), "code": Each(Value(str)), "data": Value(str | None)},
    "teachers": Each({"identity": Value(str | None), "weights_sha256": Value(str | None)}),
}
"""The form of what provenance.json records of an identity; see `record`."""


@dataclass(frozen=True)
class Identity:
    """What decides a cell's result, besides the prepared data.

    Attributes:
        fields: `recipe.lr`, `objective.kd.weight`, ... -> value.
        code: File -> hash of its syntax.
        teachers: The identities of the cells that it depends on, in the order of `Cell.sources`.
    """

    fields: Mapping[str, Any]
    code: Mapping[str, str]
    teachers: tuple["Identity", ...] = ()

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 of all of it."""
        parts = [dict(self.fields), dict(self.code), [teacher.hash for teacher in self.teachers]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Fresh:
    """A cell's result is the one that is asked for."""

    reasons = ()
    fresh = True

    def __str__(self) -> str:
        return "fresh"


@dataclass(frozen=True)
class Stale:
    """A cell's result is missing, or is not the one that is asked for; `reasons` are sentences that say why."""

    reasons: tuple[str, ...]
    fresh = False

    def __str__(self) -> str:
        return f"stale: {'; '.join(self.reasons)}"


# ------------------------------------------------------------------------------------------- what a cell is made from


class Identities:
    """The identities of the cells of a benchmark, teachers included; what cells share is computed once.

    The code is read when a cell is first asked for: make a new object after an edit.

    Args:
        cells: The cells, among them the teachers.
    """

    def __init__(self, cells: Iterable[Cell] = ()):
        self.cells = {cell.path: cell for cell in cells}
        self._found: dict[str, Identity] = {}
        self._code: dict[tuple, dict[str, str]] = {}

    def of(self, cell: Cell) -> Identity:
        """Return the identity of a cell.

        Raises:
            ValueError: One of its teachers is not among the cells, or a term has no file.
        """
        if cell.path not in self._found:
            if unknown := [path for path in cell.sources if path not in self.cells]:
                raise ValueError(f"{cell.path}: its teacher {unknown[0]} is no cell that is known here")
            teachers = tuple(self.of(self.cells[path]) for path in cell.sources)
            self._found[cell.path] = Identity(fields(cell), self.code(cell), teachers)
        return self._found[cell.path]

    def code(self, cell: Cell) -> dict[str, str]:
        """Return file -> hash of the code that a cell uses; cells that use the same share it."""
        exchange = cell.exchange.name if cell.exchange else ""
        networks = cell.student, cell.teacher, cell.subnets, cell.partners
        kind = (networks, tuple(cell.objective), exchange, cell.dataset == cell.slug)
        if kind not in self._code:
            roots = _roots(cell)
            self._code[kind] = codehash.files(*roots, apart=set(APART) - set(roots))
        return self._code[kind]


def of_cell(cell: Cell, cells: Iterable[Cell] = ()) -> Identity:
    """Return the identity of one cell; `cells` has its teachers. For many cells use `Identities`."""
    return Identities(cells).of(cell)


def fields(cell: Cell) -> dict[str, Any]:
    """Return the typed fields that decide a cell's result, as `recipe.lr` -> value; labels and places are none of them."""
    found: dict[str, Any] = {}
    for name, value in _deciding(cell).items():
        if isinstance(value, Recipe | Data | Generated | TeacherFile):
            found |= {f"{name}.{option}": item for option, item in _deciding(value).items()}
        else:
            found[name] = value
    exchange = cell.exchange
    found["dataset"] = cell.slug  # a folder of images may move; what is in it is compared by the data's hash
    found["exchange"] = exchange.name if exchange else None
    found |= {f"exchange.{name}": value for name, value in (_deciding(exchange) if exchange else {}).items()}
    del found["objective"]
    for term, options in methods.written_out(cell.objective).items():
        found |= {f"objective.{term}.{option}": value for option, value in ({"weight": 1} | dict(options)).items()}
    if cell.recipe.ranks_per_network == 1:
        found["recipe.ranks_per_network"] = 0  # a process for each network gives the bytes of one for all
    return {name: _number(keys.plain(value)) for name, value in found.items()}


def data_hash(manifest: str | Path) -> str | None:
    """Return a hash of what a prepared data set holds, by its manifest.json; None where that is not there."""
    content = _read(Path(manifest))
    if content is None:
        return None
    held = {key: value for key, value in content.items() if key not in PLACE}
    if content.get("loader") != "stream":
        held.pop("sources_sha256", None)  # the archive that the images came in; they have a hash of their own
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def record(cell: Cell, *, results: str | Path, data: str | Path) -> dict:
    """Return what provenance.json holds of a cell's identity; call it before the training.

    Args:
        cell: The cell that is about to be trained.
        results: Root of the results, with the teachers' folders in it.
        data: Folder of the prepared data set.
    """
    folders = [Path(results) / path for path in cell.sources]
    identity = at(cell, results)
    taught = [
        {"identity": teacher.hash if _recorded(folder) else None, "weights_sha256": file_hash(folder / WEIGHTS)}
        for teacher, folder in zip(identity.teachers, folders, strict=True)
    ]
    return {
        "hash": identity.hash,
        "fields": dict(identity.fields),
        "code": dict(identity.code),
        "data": data_hash(Path(data) / "manifest.json"),
        "teachers": dict(zip(cell.sources, taught, strict=True)),
    }


def at(cell: Cell, results: str | Path) -> Identity:
    """Return the identity that a cell has when it learns from the teachers as they lie in their folders."""
    return Identity(
        fields(cell), Identities().code(cell), tuple(_of_folder(Path(results) / path, Path(results)) for path in cell.sources)
    )


def _of_folder(folder: Path, results: Path) -> Identity:
    """Return the identity that a folder's cell was recorded with; an empty one where none was."""
    recorded = _recorded(folder)
    if not recorded:
        return Identity({}, {})
    return Identity(
        recorded["fields"], recorded["code"], tuple(_of_folder(results / path, results) for path in recorded["teachers"])
    )


def recorded_fields(folder: str | Path) -> Mapping[str, Any]:
    """Return the typed fields that a folder's cell was recorded with, see `fields`; none where nothing was recorded."""
    return (_recorded(Path(folder)) or {"fields": {}})["fields"]


def _deciding(kind: Any) -> dict[str, Any]:
    found = {name: (spec, getattr(kind, spec.attribute)) for name, spec in keys.specs(type(kind)).items() if spec.key.decides}
    return {name: value for name, (spec, value) in found.items() if not (spec.key.later and value == spec.default)}


def _number(value: Any) -> Any:
    """Return 1 for 1.0, which JSON and YAML do not tell apart for certain."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _roots(cell: Cell) -> tuple[str, ...]:
    """Return the modules that a cell uses and that `ENTRY` does not import by itself."""
    if unknown := [term for term in cell.objective if term not in terms.known()]:
        given = f" (it uses plugins: {keys.short(list(cell.plugins))}; give them by --plugin)" if cell.plugins else ""
        raise ValueError(f"{cell.path}: unknown term {unknown[0]!r}{given}")
    roots = [ENTRY, *(f"dgd.objectives.{term}" for term in cell.objective if term not in terms.ADDED)]
    roots += plugins.modules(cell)
    if cell.exchange and type(cell.exchange).__module__ == "dgd.cell":
        roots.append(f"dgd.exchange.{cell.exchange.name}")
    networks = [cell.student, *([cell.teacher] if cell.teacher else []), *cell.subnets, *cell.partners]
    roots += [file for name in networks if (file := codehash.registered("dgd.models", name))]
    if slug(cell.dataset) != cell.dataset:
        roots.append(READER)
    return tuple(dict.fromkeys(roots))


# ----------------------------------------------------------------------------------------- is a result still asked for?


def status(
    cell: Cell,
    folder: str | Path,
    *,
    identity: Identity,
    data: str | None = None,
    files: Sequence[str] = OUTPUTS,
    changed: bool = False,
) -> Fresh | Stale:
    """Say whether a folder holds the result of a cell, by the folder's own files.

    Args:
        cell: What is asked for.
        folder: The cell's folder; teachers are looked up below the same root of the results.
        identity: The identity of the cell today.
        data: `data_hash` of the prepared data set; None where it is not there, and is then not compared.
        files: What must be in the folder. Committed results come without weights.
        changed: What the data set was prepared from is not what is there today.
    """
    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        return Stale(("metrics.json is missing",))
    if reasons := _changed(folder, [RECORD]):
        return Stale(tuple(reasons))
    recorded = _recorded(folder)
    if not recorded:
        return Stale((*_since(folder, identity), "made before identities were recorded"))
    reasons = [f"{name} is missing" for name in files if not (folder / name).is_file()]
    reasons += _changed(folder, [name for name in SMALL if not reasons])
    reasons += differences(recorded, identity)
    if data and recorded["data"] != data:
        reasons.append("the data set differs")
    if changed:
        reasons.append("the files changed that the data set was prepared from")
    root = folder.parents[cell.path.count("/")] if len(folder.parts) > cell.path.count("/") else folder
    reasons += _taught_otherwise(cell, recorded, identity, root)
    return Stale(tuple(reasons)) if reasons else Fresh()


def _changed(folder: Path, names: Sequence[str]) -> list[str]:
    """Say which file of a cell is not the one that was written, if one is not."""
    try:
        check_seal(folder, names)
    except ValueError as error:
        return [str(error)]
    return []


def differences(recorded: Mapping, identity: Identity) -> list[str]:
    """Say in sentences in which fields and files of code a recorded identity differs from one of today."""
    lines = field_differences(recorded["fields"], identity.fields)
    was, now = recorded["code"], identity.code
    lines += [f"the code of {name} differs" for name in now if name in was and was[name] != now[name]]
    lines += [f"the code of {name} was not used" for name in now if name not in was]
    return lines + [f"the code of {name} is not used any more" for name in was if name not in now]


def field_differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in a sentence each which fields differ; a field that an older record lacks had its default."""
    lines = []
    for name in [*now, *(name for name in was if name not in now)]:
        before, after = was.get(name, _default(name, was, now)), now.get(name, MISSING)
        if before != after:
            before, after = (value if value == MISSING else _said(value) for value in (before, after))
            lines.append(f"{name} {before if before == MISSING else f'was {before}'} and {_is(after)}")
    return lines


def _is(after: str) -> str:
    return "now it is not set" if after == MISSING else f"is {after}"


def _said(value: Any) -> str:
    return json.dumps(value).strip('"')


def _default(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Any:
    """Return the value of a key that a record of an older version lacks."""
    place, _, option = name.rpartition(".")
    if f"{place}.weight" in was:  # a term that it had, without an option that came later
        return _number(terms.options(place.removeprefix("objective.")).get(option, (None, MISSING))[1])
    kind = {
        "": Cell,
        "recipe": Recipe,
        "data": Data,
        "generated": Generated,
        "teacher_file": TeacherFile,
        "exchange": EXCHANGES.get(now.get("exchange") or ""),
    }.get(place)
    spec = keys.specs(kind).get(option) if kind else None
    return MISSING if spec is None or spec.default is keys.MISSING else _number(keys.plain(spec.default))


def _taught_otherwise(cell: Cell, recorded: Mapping, identity: Identity, root: Path) -> list[str]:
    """Say which teachers are not those that the cell learned from."""
    lines, then = [], list(recorded["teachers"].values())
    if len(then) != len(identity.teachers):
        return [f"it had {len(then)} teachers and has {len(identity.teachers)}"]
    for path, was, teacher in zip(cell.sources, then, identity.teachers, strict=True):
        there = _recorded(root / path)
        if was["identity"] != teacher.hash:
            changed = differences(there, teacher) if there else ["it is not there"]
            if changed or there["hash"] != was["identity"]:
                lines.append(f"the teacher {path} is another one" + (f": {changed[0]}" if changed else ""))
                continue
        weights = file_hash(root / path / WEIGHTS)
        if weights and weights != was["weights_sha256"]:
            lines.append(f"the teacher {path} was trained again")
    return lines


def _since(folder: Path, identity: Identity) -> list[str]:
    """Say in which fields a cell without a recorded identity differs, by its config.yaml."""
    cell = cell_of(folder)
    return field_differences(fields(cell), identity.fields) if cell else []


def cell_of(folder: str | Path) -> Cell | None:
    """Return the cell of a folder's config.yaml; None where there is no such file, or it holds something else.

    Raises:
        ValueError: Something in it cannot be.
    """
    path = Path(folder) / "config.yaml"
    try:
        content = yaml_files.read(path) if path.is_file() else None
        if not isinstance(content, dict) or "path" not in content:
            return None
        return methods.cell_of(content)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None


def folder_cells(folder: str | Path) -> list[Cell]:
    """Return the cells in a benchmark's folder of results, by their own config.yaml, teachers that are there first.

    Raises:
        ValueError: A cell is in a folder that is not its own: it was copied.
    """
    found = []
    for path in sorted(Path(folder).glob("*/*/*/seed*/config.yaml")):
        if cell := cell_of(path.parent):
            root_of(path, cell.path, renamed=True)
            found.append(cell)
    return sorted(found, key=lambda cell: (len(cell.teachers), cell.path))


def states(cells: Iterable[Cell], results: str | Path, known: Iterable[Cell] = ()) -> dict[str, Fresh | Stale]:
    """Return path -> whether the results folder holds the cell, as `status` says; prepared data are compared if there.

    Args:
        cells: The cells.
        results: Root of the results.
        known: Their teachers, where these are not among the cells.
    """
    cells = list(cells)
    identities, changed = Identities([*known, *cells]), {}
    for cell in cells:
        key = cell.benchmark, cell.data.dir, cell.dataset
        if key not in changed:
            changed[key] = source_files.is_changed(cell.dataset, cell.data.dir, prepared_folder(replace(cell, generated=None)))
    return {
        cell.path: status(
            cell,
            Path(results) / cell.path,
            identity=identities.of(cell),
            data=data_hash(prepared_folder(cell) / "manifest.json"),
            files=[name for name in OUTPUTS if name != WEIGHTS],
            changed=changed[cell.benchmark, cell.data.dir, cell.dataset],
        )
        for cell in cells
    }


def prepared_folder(cell: Cell) -> Path:
    """Return the folder of a cell's prepared data set: of real images, or of those that were generated for it."""
    return Path(cell.data.dir) / "prepared" / cell.benchmark / cell.data_slug


# --------------------------------------------------------------------------------------------- the same cell elsewhere


def find(results: str | Path, identity: Identity, data: str | None, *, but: str | Path | None = None) -> Path | None:
    """Return the folder of a finished cell of the same identity and data under a root of results; None where none is.

    All its files must be there as they were written, weights included. The folder `but` is not looked into.
    """
    if data is None:
        return None
    for path in sorted(Path(results).glob(f"*/{identity.fields['dataset']}/*/*/seed{identity.fields['seed']}/provenance.json")):
        folder, recorded = path.parent, _recorded(path.parent)
        if folder == Path(but or "") or not recorded or recorded["data"] != data or differences(recorded, identity):
            continue
        taught = [teacher["identity"] for teacher in recorded["teachers"].values()]
        if taught != [teacher.hash for teacher in identity.teachers] or not all((folder / name).is_file() for name in OUTPUTS):
            continue
        if (_read(folder / "metrics.json") or {}).get("status") == "finished" and not _changed(folder, OUTPUTS):
            return folder
    return None


def adopt(source: str | Path, folder: str | Path, cell: Cell) -> dict:
    """Copy a finished cell of the same identity to the folder of another cell, under the other's labels.

    Args:
        source: The folder that `find` gave.
        folder: The cell's folder.
        cell: The cell; config.yaml and metrics.json get its labels, and provenance.json the place that it came from.

    Returns:
        What metrics.json holds.
    """
    source, folder = Path(source), Path(folder)
    check_seal(source, OUTPUTS)
    contents = {name: (source / name).read_bytes() for name in OUTPUTS}
    metrics, provenance = (json.loads(contents.pop(name)) for name in ("metrics.json", RECORD))
    del contents["config.yaml"]
    labels = {"benchmark": cell.benchmark, "dataset": cell.dataset, "model": cell.model, "method": cell.method}
    metrics["cell"] |= labels
    taught = provenance["identity"]["teachers"].values()
    provenance["identity"]["teachers"] = dict(zip(cell.sources, taught, strict=True))
    if "teachers" in provenance:
        provenance["teachers"] = dict(zip(cell.teachers, provenance["teachers"].values(), strict=True))
    origin = provenance.get("origin", provenance.get("cell"))
    provenance |= {"cell": cell.path, "origin": origin}
    with locked(folder):
        write_cell(folder, cell, contents, provenance, metrics)
    return metrics


# ----------------------------------------------------------------------------------------------------------- files


def write_cell(folder: Path, cell: Cell, contents: Mapping[str, bytes], record: Mapping, metrics: Mapping) -> None:
    """Write the files of a cell; metrics.json goes first and comes last, so that with it the others are there and its own.

    Args:
        folder: The cell's folder, whose lock the caller holds.
        cell: The cell, for config.yaml.
        contents: The other files of `OUTPUTS` but for the two below.
        record: The content of provenance.json, which gets a seal.
        metrics: The content of metrics.json.
    """
    last = json_bytes(metrics)
    contents = {**contents, "config.yaml": yaml.safe_dump(cell.plain(), sort_keys=False).encode()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in {**contents, "metrics.json": last}.items()}
    remove(folder / "metrics.json")
    for name, content in {**contents, RECORD: json_bytes(sealed(record, hashes)), "metrics.json": last}.items():
        write_bytes(folder / name, content)


def _recorded(folder: Path) -> dict | None:
    """Return the identity that a folder's provenance.json records; None where it records none as it is written today."""
    found = (_read(folder / RECORD) or {}).get("identity")
    return None if found is None or any(json_files.problems(found, IDENTITY)) else found


def _read(path: Path) -> dict | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return _parsed(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=512)
def _parsed(path: Path, mtime: int, size: int) -> dict | None:
    try:
        return json_files.read(path, "")
    except (OSError, ValueError):  # a file that was cut off is as good as none
        return None
