"""BibTeX of what a benchmark uses: the papers that its terms and exchanges name as sources, and those of its numbers."""

import re
from pathlib import Path

from dgd import exchange, objectives, plugins, shipped, yaml_files
from dgd.benchmark import Benchmark, objective_of
from dgd.metrics import of_dataset
from dgd.read.papers import check_form

ARXIV = re.compile(r"\b\d{4}\.\d{4,5}\b")


def bibtex(benchmark: Benchmark, papers: str | Path | None = None) -> str:
    """Return an entry for each paper, by arXiv number; those of `papers/*.yaml` with authors and title.

    Args:
        benchmark: The benchmark.
        papers: Folder of the papers' files, by default those of the package.

    Raises:
        ValueError: One of them is no paper's.
    """
    files = {path.stem: path for path in shipped.papers(papers)} | plugins.PAPERS
    known = {name: yaml_files.read_mapping(path) for name, path in files.items()}
    for name, about in known.items():
        check_form(about, files[name])
    by_number = {str(about["arxiv"]): name for name, about in known.items() if about.get("arxiv")}
    wanted = {name: known[name].get("arxiv") for name in benchmark.papers if name in known}
    for number, source in _sources(benchmark).items():
        wanted.setdefault(by_number.get(number, f"arxiv{number}"), number)
        known.setdefault(f"arxiv{number}", {"source": source})
    return "".join(_entry(name, number, known[name]) for name, number in wanted.items())


def _sources(benchmark: Benchmark) -> dict[str, str]:
    """Return arXiv number -> the sentence of a term's or exchange's source that names it."""
    found: dict[str, str] = {}
    for row in benchmark.rows.values():
        for dataset in benchmark.datasets:
            for term in objective_of(row, benchmark.protocol, of_dataset(dataset)):
                source = objectives.TERMS[term].source
                found |= {number: source for number in ARXIV.findall(source) if number not in found}
        source = exchange.source(row.exchange["name"]) if row.exchange else ""
        found |= {number: source for number in ARXIV.findall(source) if number not in found}
    return found


def _entry(name: str, number: str | None, about: dict) -> str:
    fields = {
        "author": " and ".join(about.get("authors", [])),
        "title": f"{{{about['title']}}}" if about.get("title") else "",
        "year": str(about.get("year", "")),
        "eprint": number or "",
        "archiveprefix": "arXiv" if number else "",
        "note": about.get("version", "") if about.get("title") else f"source of a method here: {about['source']}",
    }
    lines = "".join(f"  {key} = {{{value}}},\n" for key, value in fields.items() if value)
    return f"@misc{{{name},\n{lines}}}\n\n"
