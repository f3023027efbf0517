"""Run a command line: its words, its errors as one line each, its exit status."""

import io
import os
import sys
from itertools import islice

import typer
import yaml

from dgd.cli import keeping, listing, machine, own_files, reading, training
from dgd.cli.common import app

COMMANDS = (listing, training, reading, own_files, keeping, machine)
"""The modules of commands: importing them adds their commands to the application."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, which typer gives where a program calls `main`; `dgd.signals` ends the command itself."""
SEVERAL = ("--shares", "--papers", "--paper")
"""Options that take several values after each other, which typer knows only as the option given again."""
WRONG_USAGE = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What typer raises of a command line that is wrong; it has no name for it of its own."""
PERSONS = (ValueError, OSError, RuntimeError, ImportError, MemoryError, yaml.YAMLError)
"""Errors whose message says what is wrong and where."""


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit status; a mistake is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):  # in a locale without UTF-8, what it lacks is written as \\u2190
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            status = app(_each(sys.argv[1:] if argv is None else argv), prog_name="dgd-bench", standalone_mode=False) or 0
        finally:
            sys.stdout.flush()
    except WRONG_USAGE as error:
        return _refuse(error)
    except SystemExit as end:  # a reader that went away, which typer sees first
        return end.code or 0
    except BrokenPipeError:  # `| head`: at its end Python would write what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except UnicodeEncodeError as error:
        name = error.object.encode("ascii", "backslashreplace").decode()
        print(f"dgd-bench: {name}: a name that this locale cannot write; set PYTHONUTF8=1", file=sys.stderr)
        return 1
    except PERSONS as error:
        print(f"dgd-bench: {error or type(error).__name__}", file=sys.stderr)
        return 1
    if status == INTERRUPTED:
        print("\ndgd-bench: interrupted; the same command goes on", file=sys.stderr)
    return status


def _refuse(error: Exception) -> int:
    """Say what is wrong with a command line, and how to read what is right; return its exit status."""
    if message := error.format_message():  # none where nothing was given: that printed the help
        command = error.ctx.command_path if getattr(error, "ctx", None) else "dgd-bench"
        print(f"dgd-bench: {' '.join(message.split())} (see `{command} --help`)", file=sys.stderr)
    return error.exit_code


def _each(argv: list[str]) -> list[str]:
    """Return a command line in which each value of an option in `SEVERAL` has the option before it, and plugins come first."""
    found, plugins, option = [], [], ""
    words = iter(argv)
    for word in words:
        if word.partition("=")[0] == "--plugin":
            plugins += [word] if "=" in word else [word, *islice(words, 1)]
            continue
        if word.startswith("--"):
            option, first = (word if word in SEVERAL else ""), True
        elif option and not first:
            found.append(option)
        else:
            first = False
        found.append(word)
    return plugins + found
