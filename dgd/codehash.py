"""Hash the code that a result depends on: the syntax of some modules and of all that they import from this repository.

So is the code of plugins, which lie elsewhere. Comments, docstrings and formatting do not count. Imports are read, not run,
so nothing here needs torch. A module looked up by name at run time (`importlib`) is not seen: who asks for a hash names it too.
"""

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"dgd": ROOT, "pipeline": ROOT}
"""The packages whose code counts, and modules of plugins: name -> the folder that it lies in."""
DIGITS = 16
"""Hexadecimal digits of a file's hash: 64 bits, enough to tell versions of one file apart."""
ALL = "*"


@dataclass(frozen=True)
class Import:
    """An import of something of this repository.

    Attributes:
        module: The module that is imported, or imported from.
        name: What is imported from it; None is the module itself.
        bound: The name that the importing module gives it.
        used: Attributes of `bound` that the module uses; `*` among them where `bound` is used in another way.
    """

    module: str
    name: str | None
    bound: str
    used: frozenset[str]


@dataclass(frozen=True)
class Module:
    """A module's own code and its imports.

    Attributes:
        digest: Hash of its syntax.
        imports: What it needs.
        exports: What a package's `__init__` only hands on, by name: needed by those who ask for it. It is not part of `digest`.
    """

    digest: str
    imports: tuple[Import, ...]
    exports: dict[str, Import]


def code(*roots: str, apart: Iterable[str] = ()) -> str:
    """Return the SHA-256 of the code of modules and of all modules that they import; see `files`."""
    return digest(files(*roots, apart=apart))


def files(*roots: str, apart: Iterable[str] = ()) -> dict[str, str]:
    """Return path -> hash of the syntax of modules and of all modules that they import, directly or not.

    Args:
        roots: Names of modules, such as `dgd.objectives.kd`. Of a package all that its `__init__` hands on is followed.
        apart: Modules that are neither hashed nor followed.

    Raises:
        ValueError: A root is no module of this repository.
    """
    for root in roots:
        if not module_file(root):
            raise ValueError(f"{root}: no such module")
    apart, found, asked = set(apart), {}, {}
    todo: list[tuple[str, frozenset[str]]] = [(root, frozenset({ALL})) for root in roots]
    while todo:
        name, names = todo.pop()
        path = module_file(name)
        if path is None or name in apart or (name in asked and names <= asked[name]):
            continue
        folder = FOLDERS[_top(name)]
        module, first = parse(path, folder), name not in asked
        asked[name] = asked.get(name, frozenset()) | names
        found[path.relative_to(folder).as_posix()] = module.digest
        exports = module.exports if ALL in names else {n: module.exports[n] for n in names & module.exports.keys()}
        for one in [*(module.imports if first else ()), *exports.values()]:
            todo += _targets(one)
        if first and "." in name:
            todo.append((name.rpartition(".")[0], frozenset()))
    return dict(sorted(found.items()))


def package_files(package: str = "dgd") -> dict[str, str]:
    """Return path -> hash of the syntax of every module of a package."""
    return {path.relative_to(ROOT).as_posix(): parse(path).digest for path in sorted((ROOT / package).rglob("*.py"))}


def digest(hashes: dict[str, str]) -> str:
    """Return one SHA-256 for files and their hashes."""
    return hashlib.sha256("\n".join(f"{path} {value}" for path, value in sorted(hashes.items())).encode()).hexdigest()


def module_file(name: str) -> Path | None:
    """Return the file of a module of this repository by its name; None where there is none."""
    if _top(name) not in FOLDERS:
        return None
    path = FOLDERS[_top(name)].joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def registered(module: str, name: str, decorator: str = "register_model") -> str | None:
    """Return a module that defines a function of this name under a decorator; None where none does.

    Args:
        module: The module, or the package of it.
        name: Name of the function.
        decorator: A part of the decorator's name.
    """
    return all_registered(module, decorator).get(name)


def all_registered(module: str, decorator: str = "register_model") -> dict[str, str]:
    """Return the functions under a decorator in a module, or in the modules of a package: name -> module."""
    path, found = module_file(module), {}
    inside = sorted(path.parent.glob("*.py")) if path and path.name == "__init__.py" else []
    for file in inside or filter(None, [path]):
        stat = file.stat()
        for name in sorted(_decorated(file, stat.st_mtime_ns, stat.st_size, decorator)):
            found[name] = f"{module}.{file.stem}" if file != path else module
    return found


def parse(path: Path, folder: Path = ROOT) -> Module:
    """Return the code and imports of a file below a folder of `FOLDERS`; a file that did not change is read once."""
    stat = path.stat()
    return _parse(path, folder, stat.st_mtime_ns, stat.st_size, frozenset(FOLDERS))


@lru_cache(maxsize=1024)
def _parse(path: Path, folder: Path, mtime: int, size: int, known: frozenset) -> Module:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    package = path.parent.relative_to(folder).as_posix().replace("/", ".").strip(".")
    uses = _uses(tree)
    imports = [one for node in ast.walk(tree) for one in _imports(node, package, uses)]
    exports: dict[str, Import] = {}
    if path.name == "__init__.py":
        exports = {one.bound: one for one in imports if not one.used and one.bound != ALL}
        imports = [one for one in imports if one not in exports.values()]
    text = ast.unparse(ast.fix_missing_locations(_Bare(exports, package, path.name == "__init__.py").visit(tree)))
    return Module(hashlib.sha256(text.encode()).hexdigest()[:DIGITS], tuple(imports), exports)


@lru_cache(maxsize=1024)
def _decorated(path: Path, mtime: int, size: int, decorator: str) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return frozenset(f.name for f in functions if any(decorator in ast.unparse(d).split("(")[0] for d in f.decorator_list))


class _Bare(ast.NodeTransformer):
    """Take out what does not count: docstrings and other bare strings, and what an `__init__` only hands on."""

    def __init__(self, exports: dict[str, Import], package: str, is_init: bool):
        self.exports, self.package, self.is_init = exports, package, is_init

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        bare = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if bare else self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        if _top(_absolute(node, self.package)) in FOLDERS:
            node.names = [alias for alias in node.names if (alias.asname or alias.name) not in self.exports]
        return node if node.names else None

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        return None if self.is_init and _is_all(node) else self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]
        return node


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]


def _uses(tree: ast.Module) -> dict[str, set[str]]:
    """Return name -> attributes of it that are used, with `*` where it is used in another way."""
    uses: dict[str, set[str]] = {}
    attributes = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            uses.setdefault(node.value.id, set()).add(node.attr)
            attributes.add(node.value)
        elif isinstance(node, ast.Name) and node not in attributes:
            uses.setdefault(node.id, set()).add(ALL)
    return uses


def _imports(node: ast.AST, package: str, uses: dict[str, set[str]]) -> list[Import]:
    if isinstance(node, ast.Import):
        names = [(alias.name, None, alias.asname or alias.name.partition(".")[0]) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = _absolute(node, package)
        names = [(module, alias.name, alias.asname or alias.name) for alias in node.names]
    else:
        return []
    return [
        Import(module, name, bound, frozenset(uses.get(bound, ()))) for module, name, bound in names if _top(module) in FOLDERS
    ]


def _top(module: str) -> str:
    return module.partition(".")[0]


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _targets(one: Import) -> list[tuple[str, frozenset[str]]]:
    """Return the modules that an import needs, each with the names that it takes from them."""
    if one.name is None:
        return [(one.module, one.used or frozenset({ALL}))]
    submodule = f"{one.module}.{one.name}"
    if module_file(submodule):
        # What is handed on (`from dgd import models as models`) is asked for whole.
        return [(submodule, one.used or frozenset({ALL})), (one.module, frozenset())]
    return [(one.module, frozenset({one.name}))]
