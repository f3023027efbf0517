"""Write the report: `python -m pipeline.report --config <resolved config> --out results/quick/report.html`."""

import argparse
import base64
import html
import json
import re
from itertools import groupby
from pathlib import Path

import jinja2
import yaml

from dgd.config import cells
from dgd.tables import replace_file

PAGE = Path(__file__).parent / "report" / "page.html"
# What a browser still shows at once: of more cells only those without a result are listed, of a larger SVG the PNG is shown.
LISTED = 1000
SVG_BYTES = 250_000


def main(argv=None):
    """Put tables, figures, config and provenance of a benchmark on one page that needs no other file and no network."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a resolved config, a JSON file")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    folder, config = args.out.parent, json.loads(args.config.read_text())
    rows = [_row(folder.parent, cell["path"]) for cell in cells(config)]
    page = jinja2.Template(PAGE.read_text(), autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
        benchmark=config["benchmark"],
        config=yaml.safe_dump(config, sort_keys=False),
        tables=[(name, to_html((folder / "tables" / f"{name}.md").read_text())) for name in ("results", "filters")],
        figures=[(path.stem, _data_uri(path)) for path in sorted((folder / "figures").glob("*.svg"))],
        cells=rows,
        listed=rows if len(rows) <= LISTED else [row for row in rows if row["status"] != "finished"],
        seconds=sum(row["seconds"] for row in rows),
        facts=_facts([row["provenance"] for row in rows]),
    )
    replace_file(args.out, page.encode())


def to_html(markdown: str) -> jinja2.filters.Markup:
    """Markdown as our tables use it, headings, pipe tables, lists and paragraphs, as HTML."""
    parts = []
    for is_table, group in groupby(markdown.strip().splitlines(), key=lambda line: line.startswith("|")):
        if is_table:
            head, _, *body = [_split(line) for line in group]
            parts.append("<div class='wide'><table><tr>" + "".join(f"<th>{c}</th>" for c in head) + "</tr>")
            parts += ["<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in body]
            parts.append("</table></div>")
        else:
            text = "\n".join(group)
            parts += [_block(block) for block in text.split("\n\n") if block.strip()]
    return jinja2.filters.Markup("\n".join(parts))


def _split(line: str) -> list[str]:
    r"""The cells of a pipe table's line; `\|` is a bar of its own."""
    cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    return [html.escape(cell.strip().replace("\\|", "|")) for cell in cells]


def _block(text: str) -> str:
    text = text.strip()
    if text.startswith("#"):
        return f"<h3>{html.escape(text.lstrip('# '))}</h3>"
    if text.startswith("- "):
        return (
            "<ul>"
            + "".join(f"<li>{html.escape(item.strip())}</li>" for item in re.split("^- ", text, flags=re.M)[1:])
            + "</ul>"
        )
    return f"<p>{html.escape(text)}</p>"


def _data_uri(svg: Path) -> str:
    """A figure as a page can hold it: the SVG, or the PNG beside it where the SVG is large."""
    kind, path = ("svg+xml", svg) if svg.stat().st_size <= SVG_BYTES else ("png", svg.with_suffix(".png"))
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()


def _row(results: Path, path: str) -> dict:
    """A cell's line in the report; its number, and what produced it."""
    metrics = json.loads((results / path / "metrics.json").read_text())
    provenance = json.loads((results / path / "provenance.json").read_text())
    done = metrics["status"] == "finished"
    return {
        "path": path,
        "status": metrics["status"],
        "error": metrics.get("error", ""),
        "top1": f"{metrics['networks'][0]['last']['top1']:.2f}" if done else "",
        "seconds": metrics["timings"]["seconds"] if done else 0.0,
        "provenance": provenance,
    }


def _facts(records: list[dict]) -> list[tuple[str, str, int]]:
    """(what, value, number of cells) of everything that should be one and the same in all cells."""
    found = {}
    for record in records:
        machine, git = record["machine"], record["git"] or {}
        gpu = (machine["gpu"] or {}).get("name", "none")
        commit = git.get("commit") or "not in a repository"
        for what, value in {
            "code (SHA-256)": record["code_sha256"],
            "commit": commit + (" and uncommitted changes" if git.get("dirty") else ""),
            "Python": record["python"],
            "packages": ", ".join(f"{name} {number}" for name, number in record["packages"].items()),
            "CPU": f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads a cell",
            "GPU": gpu,
            "host": machine["host"],
        }.items():
            found[what, value] = found.get((what, value), 0) + 1
    order = list(dict.fromkeys(what for what, _ in found))
    return [(what, value, n) for (what, value), n in sorted(found.items(), key=lambda item: order.index(item[0][0]))]


if __name__ == "__main__":
    main()
