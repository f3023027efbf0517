"""Write the first file of a plugin: `dgd-bench new term my-loss`."""

import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from dgd import keys
from dgd.files import write_text

KINDS = ("term", "exchange", "model", "dataset", "paper")


def new(kind: str, name: str, folder: str | Path = ".") -> Path:
    """Write a commented file that works as it is, and passes `dgd.checking.check`; return its path.

    Args:
        kind: One of `KINDS`.
        name: What a benchmark will call it.
        folder: Where the file goes.

    Raises:
        ValueError: There is no such kind, the name cannot be one, or the file is there.
    """
    if kind not in KINDS:
        raise ValueError(f"new {kind}: nothing of this kind can be added{keys.nearest(kind, KINDS)}")
    if not keys.is_name(name) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ValueError(f"{keys.short(name)} is no name: write letters, digits, `_` and `-`, a letter first")
    module = name.replace("-", "_")
    template = f"{kind}.yaml" if kind == "paper" else f"{kind}.py"
    path = Path(folder) / (f"{name}.yaml" if kind == "paper" else f"{module}.py")
    if path.exists():
        raise ValueError(f"{path} is there already; it is left as it is")
    words = re.split(r"[-_]+", name)
    values = {"name": name, "model": module, "file": path.name, "kind": "".join(word[:1].upper() + word[1:] for word in words)}
    templates = Environment(loader=PackageLoader("dgd"), undefined=StrictUndefined, keep_trailing_newline=True)
    write_text(path, templates.get_template(f"{template}.jinja").render(values))
    return path
