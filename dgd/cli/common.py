"""What the commands share: the application, arguments and options, and one way to print what was found."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

EXIT = (
    "Exit status: 0 all is right; 1 not all is: a cell is stale, missing or failed, a file has a fault, or something went "
    "wrong, as a line `dgd-bench: ...` on stderr says; 2 the command line is wrong; 75 the time of --stop-after is over, and "
    "the same command goes on; 130 ended by Ctrl-C, 143 by SIGTERM."
)

PANELS = ("Commands", "Train", "Read results", "Your own files", "Keep results", "This machine")
"""The groups of commands, in the order of the help."""


class _InOrder(TyperGroup):
    """The commands in the order of `PANELS`, whatever module was imported first."""

    def list_commands(self, ctx) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: PANELS.index(getattr(self.commands[name], "rich_help_panel", None) or PANELS[0]))


app = typer.Typer(
    cls=_InOrder,
    help=f"""`dgd-bench`: one thing at a time, without Snakemake.

Example: dgd-bench train config/quick.yaml && dgd-bench table results/quick

{EXIT}""",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="A benchmark, e.g. config/quick.yaml.")]
ResultsFolder = Annotated[str, typer.Argument(metavar="RESULTS", help="A benchmark's results, e.g. results/quick.")]
CellFolder = Annotated[str, typer.Argument(metavar="CELL", help="A cell's folder.")]
Root = Annotated[str | None, typer.Option("--results", help="Root of the results (default: the benchmark's).")]
Papers = Annotated[str | None, typer.Option(help="Folder of the papers' files (default: those of the package).")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.callback()
def _before(
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="Python file, package's folder or paper's YAML file that adds something (docs/extending.md)."),
    ] = None,
) -> None:
    if plugin:
        from dgd import plugins

        plugins.load(plugin)


def show(found: Any, text: str, as_json: bool) -> None:
    """Print what a command found.

    Args:
        found: It, as values, mappings, lists, dataclasses and pandas frames.
        text: What people read.
        as_json: Print `found` as JSON instead; what is no finite number is null.
    """
    print(json.dumps(plain(found), indent=1) if as_json else text)


def plain(found: Any) -> Any:
    """Return something in the types that JSON has; a frame is a list of its rows."""
    if isinstance(found, Mapping):
        return {str(key): plain(value) for key, value in found.items()}
    if isinstance(found, tuple) and hasattr(found, "_asdict"):
        return plain(found._asdict())
    if isinstance(found, list | tuple | set):
        return list(map(plain, found))
    if is_dataclass(found):
        return plain(asdict(found))
    if hasattr(found, "to_dict"):  # a frame
        return plain(found.astype(object).to_dict("records"))
    if hasattr(found, "item"):  # a number of numpy or torch
        return plain(found.item())
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found if isinstance(found, str | int | float | bool | None) else str(found)


def end(failed: bool) -> None:
    """End the command with exit status 1 if not all is right."""
    if failed:
        raise typer.Exit(1)
