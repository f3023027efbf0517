"""Terms, exchanges, networks, data sets, tasks, rows and papers that come from outside the package.

A plugin is a Python file, a package (a folder with `__init__.py`), a paper's YAML file, or an entry point `dgd_bench.plugins`
of an installed package. A module adds what these names of it hold, name -> thing:

* `TERMS`: subclasses of `dgd.objectives.Term`;
* `EXCHANGES`: kinds, subclasses of `dgd.cell.Ring`, `Within` or `Surgery`, with the function that `dgd.exchange` describes as a
  static method;
* `METHODS`: rows, `dgd.cell.Method`;
* `DATASETS`: `dgd.data.Source`;
* `TASKS`: `dgd.task.Task`.

Networks are registered with timm's `@register_model`, as anywhere. Only what the user names is run: a benchmark's `plugins`,
`--plugin`, or what is installed; a folder of results never brings code along. Nothing here needs torch, but plugins may.
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import dgd
from dgd import cell, codehash, keys, methods, metrics, source_files, terms, yaml_files

GROUP = "dgd_bench.plugins"
"""The group of entry points that are plugins."""
VARIABLE = "DGD_PLUGINS"
"""The environment's variable by which the processes that this one starts load the same plugins."""

PAPERS: dict[str, Path] = {}
"""Papers' files of plugins by name."""
_MODULES: dict[str, str] = {}
"""Name of a plugin's module -> how it was given."""
_OWNERS: dict[tuple[str, str], str] = {}
"""Registry and name of what was added -> the name of the module that it comes from."""


def load(given: Iterable[str]) -> None:
    """Load plugins that are not loaded yet, here and in the processes that this one starts.

    Args:
        given: Paths of Python files, of packages' folders or of papers' YAML files, or names of entry points.

    Raises:
        ValueError: One of them is not there, cannot be run, or adds what cannot be or what is there already; names it.
    """
    for name in given:
        path = Path(name).expanduser()
        if path.suffix == ".yaml":
            _paper(name, path)
        elif path.suffix == ".py" or path.is_dir():
            _file(name, path)
        else:
            _entry_point(name)


def load_installed() -> None:
    """Load the plugins of all packages that are installed.

    Raises:
        ValueError: As `load`.
    """
    for name in _points():
        _entry_point(name)


def load_named() -> None:
    """Load the plugins that the environment names, for a process that another one started.

    Raises:
        ValueError: As `load`.
    """
    load(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))


def load_of(path: str | Path) -> None:
    """Load the plugins of a finished cell, by its config.yaml, which the user wants to be trained again.

    Raises:
        ValueError: As `load`; the message names the file.
    """
    path = Path(path)
    content = yaml_files.read(path) if path.is_file() else None
    given = content.get("plugins") if isinstance(content, dict) else None
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        try:
            load(given)
        except ValueError as error:
            raise ValueError(f"{path}: plugins: {error}") from error


def contents(given: str) -> dict[str, list[str]]:
    """Return what a loaded plugin has added: registry -> names, with the networks that it registers as `NETWORKS`."""
    names = [name for name, how in _MODULES.items() if how == given]
    found = {registry: [key for (kind, key), of in _OWNERS.items() if kind == registry and of in names] for registry in _CHECKS}
    return found | {"NETWORKS": [network for name in names for network in codehash.all_registered(name)]}


def given_for(own: cell.Cell) -> tuple[str, ...]:
    """Return the plugins that a cell uses, as they were given."""
    reader = module_of_data(own.dataset)
    return tuple(dict.fromkeys(_MODULES[name] for name in [*modules(own), *([reader] if reader else [])]))


def modules(own: cell.Cell) -> list[str]:
    """Return the names of the modules of plugins whose code decides a cell's result.

    Those that read data sets are none of them: what they make is compared by its content.
    """
    used = [("TERMS", name) for name in own.objective] + [("TASKS", own.task)]
    used += [("EXCHANGES", own.exchange.name)] if own.exchange else []
    found = [_OWNERS.get(key) for key in used]
    networks = [own.student, own.teacher, *own.subnets, *own.partners]
    found += [codehash.registered(module, name) for name in networks if name for module in _MODULES]
    return list(dict.fromkeys(filter(None, found)))


def module_of_data(dataset: str) -> str | None:
    """Return the module of a plugin that reads a data set; None where the package itself does."""
    return _OWNERS.get(("DATASETS", dataset.partition(":")[0]))


# ------------------------------------------------------------------------------------------------------------- loading


def _paper(name: str, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{name}: no such file")
    if PAPERS.setdefault(path.stem, path) != path:
        raise ValueError(f"{name}: there is another paper {path.stem}, {PAPERS[path.stem]}; rename one")
    _for_children(path.resolve())


def _file(name: str, path: Path) -> None:
    """Run a file, or a folder's `__init__.py`, as a module of the file's name, and add what it holds."""
    path = path.resolve()
    file = path / "__init__.py" if path.is_dir() else path
    module = path.stem
    if not file.is_file():
        raise ValueError(f"{name}: {file} is not there")
    if not module.isidentifier():
        raise ValueError(f"{name}: a plugin is imported by its name, and {module!r} cannot be one in Python; rename it")
    if module in _MODULES and Path(sys.modules[module].__file__) == file:
        return
    other = sys.modules.get(module) or find_spec(module)
    origin = getattr(other, "origin", None) or getattr(other, "__file__", None)
    if other and (module in _MODULES or module in sys.modules or Path(origin or "").resolve() != file):
        raise ValueError(f"{name}: there is another module {module!r}; rename the plugin")
    spec = spec_from_file_location(module, file, submodule_search_locations=[str(path)] if path.is_dir() else None)
    made = module_from_spec(spec)
    sys.modules[module] = made
    _run(name, module, lambda: spec.loader.exec_module(made))
    codehash.FOLDERS[module] = path.parent
    _add(name, made)
    _for_children(path)


@cache
def _points() -> dict[str, metadata.EntryPoint]:
    """Return the entry points by name, found once: all installed packages are looked through."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def _entry_point(name: str) -> None:
    points = _points()
    if name not in points:
        hint = keys.nearest(name, points) if points else ""
        raise ValueError(
            f"{name}: no Python file, no folder, and no entry point {GROUP!r} of an installed package has this name{hint}"
        )
    module = points[name].module
    if module in _MODULES:
        return
    _run(name, module, lambda: import_module(module))
    top = module.partition(".")[0]
    codehash.FOLDERS[top] = Path(sys.modules[top].__file__).parents[1 if hasattr(sys.modules[top], "__path__") else 0]
    _add(name, sys.modules[module])
    _for_children(name)


def _run(name: str, module: str, run: Callable[[], object]) -> None:
    if dgd.NETWORKS:
        from dgd import models as models  # a plugin may ask timm for one of ours
    try:
        run()
    except Exception as error:  # whatever another's code may raise
        sys.modules.pop(module, None)
        if isinstance(error, ModuleNotFoundError):
            hint = "; modules that belong to a plugin lie in one folder with it, which has an __init__.py and is given instead"
        else:
            hint = ""
        raise ValueError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}{hint}") from error


def _for_children(plugin: str | Path) -> None:
    there = list(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*there, str(plugin)]))


# -------------------------------------------------------------------------------------------------------------- adding


def _add(name: str, module: ModuleType) -> None:
    """Add what a module holds to the registries; nothing of it where something cannot be."""
    found = []
    for registry, check in _CHECKS.items():
        things = getattr(module, registry, {})
        if not isinstance(things, Mapping):
            raise ValueError(f"{name}: {registry} must be a mapping of names")
        for key, thing in things.items():
            if not isinstance(key, str) or not keys.is_name(key):
                raise ValueError(f"{name}: {registry} has {keys.short(key)}; it must be {keys.NAMED}")
            if key in _known(registry):
                raise ValueError(f"{name}: {registry} has {key!r}, which is there already; take another name")
            if problem := check(thing):
                raise ValueError(f"{name}: {registry}[{key!r}] {problem}")
            found.append((registry, key, thing))
    _MODULES[module.__name__] = name
    for registry, key, thing in found:
        _OWNERS[registry, key] = module.__name__
        _known(registry)[key] = thing
        _beside(registry, key, thing, module)


def _known(registry: str) -> dict:
    """Return the registry itself."""
    if registry in ("TERMS", "EXCHANGES", "METHODS"):
        return {"TERMS": terms.known(), "EXCHANGES": cell.EXCHANGES, "METHODS": methods.METHODS}[registry]
    from dgd import data, task

    return {"DATASETS": data.SOURCES, "TASKS": task.TASKS}[registry]


def _beside(registry: str, key: str, thing, module: ModuleType) -> None:
    """Write what other registries hold of a thing."""
    if registry == "TERMS":
        terms.known()[key] = terms.signature(thing)
        terms.ADDED[key] = thing
    elif registry in ("EXCHANGES", "TASKS"):
        (thing if registry == "EXCHANGES" else type(thing)).name = key
    if registry == "DATASETS":
        source_files.ADDED[key] = (Path(module.__file__), thing.files)
        if thing.task != "classification":
            metrics.DATASETS[key] = thing.task
    if registry == "TASKS":
        metrics.METRICS[key], metrics.TERMS[key] = thing.metric, thing.term


def _term_problem(thing) -> str:
    from dgd.objectives import STATUSES, Term

    if not (inspect.isclass(thing) and issubclass(thing, Term)):
        return "is no subclass of dgd.objectives.Term"
    if thing.status not in STATUSES:
        return f"has the status {thing.status!r}; it must be one of {', '.join(STATUSES)}"
    try:
        terms.signature(thing)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _exchange_problem(thing) -> str:
    kinds = {cell.Ring: "shares", cell.Within: "within", cell.Surgery: "surgery"}
    own = [function for kind, function in kinds.items() if inspect.isclass(thing) and issubclass(thing, kind)]
    if not own or not is_dataclass(thing):
        return "is no dataclass of the kind dgd.cell.Ring, Within or Surgery"
    if not isinstance(inspect.getattr_static(thing, own[0], None), staticmethod):
        return f"has no static method {own[0]!r}; see dgd.exchange"
    return ""


def _row_problem(thing) -> str:
    return "" if isinstance(thing, cell.Method) else "is no dgd.cell.Method"


def _source_problem(thing) -> str:
    from dgd.data import Source

    return "" if isinstance(thing, Source) else "is no dgd.data.Source"


def _task_problem(thing) -> str:
    from dgd.task import Task

    return "" if isinstance(thing, Task) else "is no dgd.task.Task"


_CHECKS = {
    # Tasks first, which data sets have, and terms before the rows that minimise them.
    "TASKS": _task_problem,
    "TERMS": _term_problem,
    "EXCHANGES": _exchange_problem,
    "METHODS": _row_problem,
    "DATASETS": _source_problem,
}
