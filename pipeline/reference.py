"""Write the tables of keys in config/README.md and of terms in docs/methods.md, and the published numbers beside a config.

`python -m pipeline.reference` writes them; what a config stands for is in its header, where that has the two marks.

`python -m pipeline.reference --schema` prints the JSON schema of a benchmark's YAML instead, for editors.
"""

import argparse
import json
from dataclasses import MISSING
from pathlib import Path

import yaml

from dgd import config, keys, terms
from dgd.benchmark import Benchmark, Pair, Teacher, schema
from dgd.cell import EXCHANGES, Augment, Data, Exchange, Generated, Generator, Normalise, Recipe, Ring
from dgd.exchange.repr import RePr
from dgd.files import write_text
from dgd.methods import Row
from dgd.objectives import TERMS
from dgd.read.planned import published_rows, summary
from pipeline import script

START, END = "<!-- keys: written by `python -m pipeline.reference` -->", "<!-- end of keys -->"
TERMS_START, TERMS_END = "<!-- terms: written by `python -m pipeline.reference` -->", "<!-- end of terms -->"
PUBLISHED_START = (
    "# Published numbers beside it, and what it departs in (`python -m pipeline.reference`, `dgd-bench list published`):"
)
PUBLISHED_END = "# End of published numbers."
# Keys that hold keys of a kind, in a benchmark.
INSIDE = {
    "data": ("data.", Data),
    "pairs": ("pairs[].", Pair),
    "methods": ("methods[].<name>.", Row),
    "recipe": ("recipe.", Recipe),
    "generator": ("generator.", Generator),
    "generated": ("generated.<name>.", Generated),
}

# Keys that hold keys of a kind, in those.
WITHIN = {"teacher": Teacher, "normalise": Normalise, "augment": Augment}


def render() -> str:
    """Return the keys of a config as a Markdown table, between the two marks."""
    rows = [START, "", "| key | default | what it is |", "|:--|:--|:--|"]
    for name, spec in keys.specs(Benchmark).items():
        if name in INSIDE:
            prefix, kind = INSIDE[name]
            rows.append(f"| **`{name}`** | {_needed(spec)} | {_said(spec)} |")
            inner = sorted(keys.specs(kind).values(), key=lambda spec: spec.name != "base")
            for spec in inner:
                rows.append(_row(prefix, spec))
                within = keys.specs(WITHIN[spec.name]).values() if spec.name in WITHIN else ()
                rows += [_row(f"{prefix}{spec.name}.", own) for own in within]
        else:
            rows.append(_row("", spec))
    kinds = " ".join(f"`{name}`: {keys.summary(kind)}" for name, kind in EXCHANGES.items())
    rows.append(f"| **`exchange`** | | In a row of `methods`. {keys.summary(Exchange)} |")
    rows.append(f"| `exchange.name` | *needed* | {kinds} |")
    rows += [_row("exchange.", spec) for spec in keys.specs(Exchange).values()]
    shared = {name for kind in (Exchange, Ring) for name in keys.specs(kind)}
    rings = ", ".join(f"`{name}`" for name, kind in EXCHANGES.items() if issubclass(kind, Ring))
    rows += [
        _row("exchange.", spec, f"{rings}: ") for name, spec in keys.specs(Ring).items() if name not in keys.specs(Exchange)
    ]
    for exchange, kind in EXCHANGES.items():
        own = [spec for name, spec in keys.specs(kind).items() if name not in shared]
        rows += [_row("exchange.", spec, f"`{exchange}`: ") for spec in own]
    return "\n".join([*rows, "", END])


def _row(prefix: str, spec: keys.Spec, whose: str = "") -> str:
    return f"| `{prefix}{spec.name}` | {_default(prefix, spec)} | {whose}{_said(spec)} |"


def _default(prefix: str, spec: keys.Spec) -> str:
    if prefix == INSIDE["methods"][0]:
        return "that of `base`" if spec.name != "base" else "`<name>`"
    if spec.key.filled:
        return spec.key.filled
    return _needed(spec) or f"`{json.dumps(keys.plain(spec.default))}`"


def _needed(spec: keys.Spec) -> str:
    return "*needed*" if spec.default is MISSING else ""


def _said(spec: keys.Spec) -> str:
    """Return the sentence of a key and the values that it can have."""
    bounds = {"at least": spec.key.least, "above": spec.key.above, "at most": spec.key.most, "below": spec.key.below}
    limits = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    choices = f" One of {', '.join(f'`{choice}`' for choice in spec.key.choices)}." if spec.key.choices else ""
    text = spec.key.says + choices + (f" ({limits[0].upper()}{limits[1:]}.)" if limits and not choices else "")
    return text.replace("|", "\\|")


def options(name: str) -> dict:
    """Return every option of a term, or of an exchange, with its default."""
    if name in EXCHANGES:
        own = [spec for key, spec in keys.specs(EXCHANGES[name]).items() if key not in keys.specs(Ring)]
        return {spec.name: keys.plain(spec.default) for spec in own if not spec.key.filled or spec.name == "protocol"}
    return {option: default for option, (_, default) in terms.options(name).items()}


def render_terms() -> str:
    """Return terms and step-by-step exchanges, as their defaults make them, as a Markdown table between the two marks."""
    rows = [TERMS_START, "", "| term | status | requires | options | source | what deviates |", "|:--|:--|:--|:--|:--|:--|"]
    for name, part in {**{name: term() for name, term in TERMS.items()}, "repr": RePr}.items():
        own = [f"`{yaml.safe_dump({key: default}).strip()}`" for key, default in options(name).items()]
        texts = [f"{text[0].upper()}{text[1:].removesuffix('.')}." for text in part.deviations]
        cells = [
            f"`{name}`",
            part.status,
            str(getattr(part, "requires", "")),
            "<br>".join(own),
            part.source,
            "<br>".join(texts),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", TERMS_END])


def render_published(path: Path) -> str:
    """Return which published numbers a config stands for, as the lines of its header between the two marks."""
    benchmark = config.load(path, folders=False)
    rows = published_rows(config.cells(benchmark), [Path("papers", f"{name}.yaml") for name in benchmark.papers])
    return "\n".join([PUBLISHED_START, *(f"#   {line}" for line in summary(rows)), PUBLISHED_END])


def main(argv=None):
    """Replace the tables and the headers' lines, or print the JSON schema of a benchmark."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--schema", action="store_true", help="print the JSON schema")
    if parser.parse_args(argv).schema:
        print(json.dumps(schema(), indent=2))
        return
    made = {
        "config/README.md": (START, render(), END),
        "docs/methods.md": (TERMS_START, render_terms(), TERMS_END),
    }
    for path in sorted(Path("config").glob("*.yaml")):
        if PUBLISHED_START in path.read_text():
            made[path] = PUBLISHED_START, render_published(path), PUBLISHED_END
    for path, (start, text, end) in made.items():
        before, _, rest = Path(path).read_text().partition(start)
        write_text(path, before + text + rest.partition(end)[2])


if __name__ == "__main__":
    script.run(main)
