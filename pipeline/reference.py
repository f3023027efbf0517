"""Write the tables of keys in config/README.md and of terms in docs/methods.md: `python -m pipeline.reference`."""

import inspect
import json
from pathlib import Path

import yaml

from dgd.files import write_text
from dgd.methods import EXCHANGES
from dgd.objectives import NEEDS, TERMS
from dgd.surgery import SURGERY
from pipeline.config import schema

START, END = "<!-- keys: written by `python -m pipeline.reference` -->", "<!-- end of keys -->"
TERMS_START, TERMS_END = "<!-- terms: written by `python -m pipeline.reference` -->", "<!-- end of terms -->"


def render() -> str:
    """The keys of a config as a Markdown table, between the two marks."""
    rows = [START, "", "| key | default | what it is |", "|:--|:--|:--|"]
    rules = schema()

    def walk(rules: dict, prefix: str) -> None:
        for key, rule in rules["properties"].items():
            if "properties" in rule:
                rows.append(f"| **`{prefix}{key}`** | | {rule['description']} |")
                walk(rule, f"{prefix}{key}.")
                continue
            default = f"`{json.dumps(rule['default'])}`" if "default" in rule else "*needed*"
            default = "by `protocol`" if prefix == "exchange." and default == "*needed*" and key != "name" else default
            choices = f" One of {', '.join(f'`{choice}`' for choice in rule['enum'])}." if "enum" in rule else ""
            rows.append(f"| `{prefix}{key}` | {default} | {rule['description']}{choices} |")

    walk(rules, "")
    exchange = rules["$defs"]["exchange"]
    rows.append(f"| **`exchange`** | | In a row of `methods`. {exchange['description']} |")
    walk(exchange, "exchange.")
    return "\n".join([*rows, "", END])


def options(name: str) -> dict:
    """Every option of a term, or of an exchange of `dgd.surgery`, with its default."""
    if name in SURGERY:
        return dict(EXCHANGES[name])
    parameters = inspect.signature(TERMS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}


def render_terms() -> str:
    """Terms and step-by-step exchanges as a Markdown table, between the two marks, with what their defaults make of them."""
    rows = [TERMS_START, "", "| term | status | needs | options | source | what deviates |", "|:--|:--|:--|:--|:--|:--|"]
    for name, part in {**{name: term() for name, term in TERMS.items()}, **SURGERY}.items():
        needs = [need for need in NEEDS if need in getattr(part, "needs", ())]
        own = [f"`{yaml.safe_dump({key: default}).strip()}`" for key, default in options(name).items()]
        texts = [f"{text[0].upper()}{text[1:].removesuffix('.')}." for text in part.deviations]
        cells = [f"`{name}`", part.status, ", ".join(needs), "<br>".join(own), part.source, "<br>".join(texts)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", TERMS_END])


def main():
    """Replace both tables."""
    for path, (start, text, end) in {
        "config/README.md": (START, render(), END),
        "docs/methods.md": (TERMS_START, render_terms(), TERMS_END),
    }.items():
        before, _, rest = Path(path).read_text().partition(start)
        write_text(path, before + text + rest.partition(end)[2])


if __name__ == "__main__":
    main()
