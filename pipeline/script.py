"""How a script of a rule ends: with one line for what a person can set right, which the rule's log and the terminal show."""

import os
import sys
from collections.abc import Callable

import yaml

PERSONS = (ValueError, OSError, RuntimeError, ImportError, MemoryError, yaml.YAMLError)
"""Errors whose message says what is wrong and where."""


def run(main: Callable[[], None]) -> None:
    """Run a script's main function; a mistake, a full disk or a reader that went away is no traceback."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: at its end Python would write what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except PERSONS as error:
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
