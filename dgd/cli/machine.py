"""`dgd-bench doctor`, `version`: what this machine has."""

from itertools import islice
from typing import Annotated

import typer

from dgd.cli.common import PANELS, AsJson, app, show

PANEL = PANELS[5]


@app.command(rich_help_panel=PANEL)
def doctor(
    data_dir: Annotated[str, typer.Option("--data", help="Folder of the data sets' files.")] = "data",
    results: Annotated[str, typer.Option(help="Root of the results.")] = "results",
    as_json: AsJson = False,
) -> None:
    """Say what this machine has, and what will therefore be slow, differ or be left out.

    Example: dgd-bench doctor
    """
    from tabulate import tabulate

    from dgd.doctor import findings

    found = list(findings(data_dir, results))
    show(found, tabulate(found, headers=["", "found", "remark"], tablefmt="plain", maxcolwidths=[None, 60, 60]), as_json)


@app.command(rich_help_panel=PANEL)
def version(as_json: AsJson = False) -> None:
    """Print the version, the commit, and the versions that results depend on.

    Example: dgd-bench version
    """
    from dgd.doctor import findings

    found = list(islice(findings(), 2))
    show({one.name: one.found for one in found}, "\n".join(f"{one.name} {one.found}" for one in found), as_json)
