"""Prepare a data set: `python -m pipeline.prepare --dataset digits --data '{"dir": "data"}' --out <folder>`."""

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dgd import identity, source_files
from dgd.files import write_text
from pipeline import script

KEYS = ("train_images", "validation_images", "image_size", "loader")
"""Keys of a config's `data` that decide what is prepared."""
MADE_FROM = "made-from.json"
"""Beside the manifest: what the data set was prepared from, so that a change is seen without Snakemake's own records."""
CODE = ("dgd.data.preparation", "dgd.data.sources")


@dataclass(frozen=True)
class Prepared:
    """A data set as a config wants it prepared, and what of it is there.

    Attributes:
        dataset: `digits`, `imagefolder:<path>`, ...
        data: The config's `data`.
        folder: Where it is prepared.
    """

    dataset: str
    data: dict
    folder: Path

    @property
    def made_from(self) -> dict:
        """Return what decides, besides the files, what is prepared."""
        options = {key: self.data.get(key) for key in KEYS}
        return {"dataset": self.dataset, **options, "code": identity.code(*CODE)}

    @cached_property
    def hash(self) -> str | None:
        """Return the hash of the prepared data set; None if it does not exist."""
        return identity.data_hash(self.folder / "manifest.json")

    @cached_property
    def changed(self) -> bool:
        """Return whether it exists, but made from other arguments or from files that are others today."""
        then = self._then()
        return then is not None and (
            any(then.get(key) != value for key, value in self.made_from.items() if key != "code")
            or source_files.is_changed(self.dataset, self.data.get("dir", "data"), self.folder)
        )

    @cached_property
    def outdated(self) -> bool:
        """Return whether it exists and would be prepared in another way today, also by its code."""
        then = self._then()
        return then is not None and (self.changed or then != self.made_from)

    def _then(self) -> dict | None:
        path = self.folder / MADE_FROM
        return source_files.read_unchecked(path) if path.is_file() and (self.folder / "manifest.json").is_file() else None


def main(argv=None):
    """Prepare one data set from the `data` part of a config."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--dataset", required=True, help="digits, cifar10, ... or imagefolder:<path>")
    parser.add_argument("--data", type=json.loads, required=True, help="the config's `data` keys, as JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    from dgd import data

    # Read first: what changes in a folder of images while it is prepared is seen at the next start.
    made_from = Prepared(args.dataset, args.data, args.out).made_from
    options = {key: args.data[key] for key in KEYS if key in args.data}
    try:
        data.prepare(args.dataset, args.out, data_dir=args.data.get("dir", "data"), **options)
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:  # what a person can set right, in one line
        sys.exit(str(error))
    write_text(args.out / MADE_FROM, json.dumps(made_from, indent=1) + "\n")


if __name__ == "__main__":
    script.run(main)
