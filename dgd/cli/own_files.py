"""`dgd-bench new`, `check`: begin and try files of the user's own."""

from typing import Annotated

import typer

from dgd.cli.common import PANELS, AsJson, app, end, show

PANEL = PANELS[3]


@app.command(rich_help_panel=PANEL)
def new(
    kind: Annotated[str, typer.Argument(help="term, exchange, model, dataset or paper.")],
    name: Annotated[str, typer.Argument(help="What a benchmark will call it, e.g. my-loss.")],
) -> None:
    """Write a commented file that adds something of your own, and works as it is.

    Example: dgd-bench new term my-loss
    """
    from dgd import scaffold

    path = scaffold.new(kind, name)
    print(f"{path}: written; `dgd-bench check {path}` tries it, `plugins: [{path}]` in a benchmark uses it")


@app.command(rich_help_panel=PANEL)
def check(
    paths: Annotated[list[str], typer.Argument(metavar="PLUGIN...", help="Files of your own, e.g. my_loss.py.")],
    as_json: AsJson = False,
) -> None:
    """Try what files of your own add, as this package's own parts are tested; exit status 1 if something is wrong.

    Example: dgd-bench check my_loss.py
    """
    from dgd import checking

    found = []
    for path in paths:
        for what, problem, note in checking.check(path):
            found.append({"file": path, "what": what, "problem": problem, "note": note})
            if not as_json:
                print(f"{what}: {problem or 'right'}{'' if problem or not note else f': {note}'}", flush=True)
    if as_json:
        show(found, "", as_json)
    end(any(row["problem"] for row in found))
