"""What the tests of the report share: a benchmark with failures, made of committed cells, and a page taken apart."""

import json
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import yaml

from dgd import config, files
from pipeline import collect, tabulate

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
DIVERGED = "cifar10-small/cifar10/cifar_resnet20/dgd/seed1"
MISSING = "cifar10-small/cifar10/cifar_resnet20/kd/seed2"
LOST = "the loss is not finite </script><script>document.title = 'taken over'</script>"
"""An error, and the last line of a log, that a careless page would run."""


def benchmark_with_holes(folder: Path) -> Path:
    """Copy cifar10-small, let one of its cells diverge and another one be missing; return its results."""
    made = folder / "results" / "cifar10-small"
    shutil.copytree(RESULTS / "cifar10-small", made, ignore=shutil.ignore_patterns("frozen.yaml", "SHA256SUMS", "report.html"))
    diverged = made.parent / DIVERGED
    cell = json.loads((diverged / "metrics.json").read_text())["cell"]
    files.write_json(diverged / "metrics.json", {"status": "diverged", "error": LOST, "cell": cell})
    (diverged / "train.log").write_text(f"epoch 1\nepoch 2\n{LOST}\n")
    shutil.rmtree(made.parent / MISSING)
    asked = folder / "config.json"
    asked.write_text(json.dumps(config.check(yaml.safe_load((made / "benchmark.yaml").read_text()), "test").plain()))
    collect.main(["--config", str(asked), "--out", str(made / "cells.csv")])
    papers = [str(ROOT / f"papers/{name}.yaml") for name in ("dgd", "filter-grafting")]
    tabulate.main(["--cells", str(made / "cells.csv"), "--papers", *papers, "--out", str(made / "tables")])
    return made


@dataclass
class Page:
    """A page taken apart.

    Attributes:
        tags: Each element: its name and attributes, in order.
        data: The JSON that the page holds.
        text: What a reader sees of it without JavaScript.
    """

    tags: list[tuple[str, dict]] = field(default_factory=list)
    data: dict = field(default_factory=dict)
    text: str = ""

    @property
    def ids(self) -> list[str]:
        """Return the names of elements."""
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    @property
    def links(self) -> list[str]:
        """Return where links lead."""
        return [attributes["href"] for tag, attributes in self.tags if tag == "a"]

    @property
    def headings(self) -> list[int]:
        """Return the levels of the headings."""
        return [int(tag[1]) for tag, _ in self.tags if tag in ("h1", "h2", "h3", "h4", "h5", "h6")]


class _Parser(HTMLParser):
    def __init__(self, page: Page):
        super().__init__()
        self.page, self.inside, self.texts = page, "", []

    def handle_starttag(self, tag, attributes):
        self.page.tags.append((tag, dict(attributes)))
        self.inside = dict(attributes).get("id", tag) if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self.inside = "" if tag in ("script", "style") else self.inside

    def handle_data(self, text):
        if self.inside == "data":
            self.page.data = json.loads(text)
        elif not self.inside:
            self.texts.append(text)


def parse(path: Path) -> Page:
    """Take a page apart."""
    page = Page()
    parser = _Parser(page)
    parser.feed(path.read_text(encoding="utf-8"))
    page.text = "".join(parser.texts)
    return page
