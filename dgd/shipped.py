"""Find what travels with the package: the papers' files and the benchmarks.

In a checkout `dgd/papers` and `dgd/benchmarks` are links to `papers/` and `config/`; a wheel has the files themselves.
"""

import os
from pathlib import Path

PAPERS = Path(__file__).parent / "papers"
EVIDENCE = PAPERS / "evidence" / "immaterial.yaml"
BENCHMARKS = Path(__file__).parent / "benchmarks"


def names() -> list[str]:
    """Return the names of the benchmarks that travel with the package."""
    return sorted(path.stem for path in BENCHMARKS.glob("*.yaml"))


def benchmark(path: str | Path) -> Path:
    """Return the file of a benchmark: the one of this path, or where there is none, the one of this name in the package.

    Args:
        path: Such as config/quick.yaml, or quick.
    """
    own = next((there for there in (path, f"{path}.yaml") if os.path.isfile(there)), None)
    return BENCHMARKS / f"{path}.yaml" if own is None and str(path) in names() else Path(own or path)


def about(path: str | Path) -> str:
    """Return the first sentence of the comment that a benchmark's file begins with."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")


def papers(folder: str | Path | None = None) -> list[Path]:
    """Return the papers' files of a folder, or those that travel with the package.

    Raises:
        ValueError: There are none in the folder.
    """
    found = sorted(Path(folder or PAPERS).glob("*.yaml"))
    if not found:
        raise ValueError(f"{folder or PAPERS}: no papers (*.yaml) there; give their folder by --papers")
    return found
