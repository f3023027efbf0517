"""Return the JavaScript and CSS that the page holds: Vega-Lite, which draws, and DataTables, which sorts and filters.

Both come from Python packages, so that the page needs no network and the lock says their versions.
"""

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Libraries(NamedTuple):
    """What a page needs to draw and to sort: `vega` sets the global `vegaEmbed`, `tables` the global `DataTable`."""

    vega: str
    tables: str
    tables_css: str


@cache
def bundled() -> Libraries:
    """Return them, bundled once a process: that takes seconds."""
    import itables
    from vl_convert import javascript_bundle

    folder = files(itables) / "html"
    return Libraries(
        _inline(javascript_bundle()),
        _inline(_global((folder / "dt_bundle.js").read_text(encoding="utf-8"))),
        (folder / "dt_bundle.css").read_text(encoding="utf-8"),
    )


def _global(module: str) -> str:
    """Return a module that sets `DataTable` instead of exporting it: a page without a network has nothing to import from."""
    found = re.search(r"export\s*\{[^}]*?(\w+) as default[^}]*\};?", module)
    if not found:
        raise ValueError("itables: its DataTables bundle has no default export; install the version of requirements.lock")
    return f"{module[: found.start()]}globalThis.DataTable={found[1]};{module[found.end() :]}"


def _inline(script: str) -> str:
    """Return a script that cannot end the element that it stands in."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE)
