"""Generate training images: `python -m pipeline.generate --cell '<resolved cell as JSON>' --base <folder> --out <folder>`."""

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dgd import codehash, identity, keys, source_files
from dgd.cell import Cell
from dgd.files import write_text
from pipeline import script, slots
from pipeline.prepare import MADE_FROM


@dataclass(frozen=True)
class Images:
    """Generated images as a config wants them, and what of them is there.

    Attributes:
        cell: Any of the cells that train on them.
        folder: Where they are prepared.
    """

    cell: Cell
    folder: Path

    changed = False
    """Other options, and other makers, are in the identity of every cell that trains on the images."""

    @property
    def made_from(self) -> dict:
        """Return all that decides how images are made by finished cells."""
        return {
            "generated": keys.plain(self.cell.generated),
            "makers": list(self.cell.makers),
            "code": codehash.code("dgd.train.generate", apart=identity.APART),
        }

    @cached_property
    def hash(self) -> str | None:
        """Return the hash of the prepared images; None if they do not exist."""
        return identity.data_hash(self.folder / "manifest.json")

    @cached_property
    def outdated(self) -> bool:
        """Return whether they exist and would be made in another way today."""
        path = self.folder / MADE_FROM
        there = path.is_file() and (self.folder / "manifest.json").is_file()
        return there and source_files.read_unchecked(path) != self.made_from


def main(argv=None):
    """Generate the images that a cell trains on, from the finished cells of a GAN, a teacher and a density ratio."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cell", type=json.loads, required=True, help="a cell that trains on them, as `Cell.plain` gives it")
    parser.add_argument("--base", type=Path, required=True, help="folder of the real, prepared data set")
    parser.add_argument("--results", type=Path, required=True, help="results root, which the makers' paths are relative to")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    cell = Cell.from_plain(args.cell)
    # The lock lives as long as this name. CUDA reads which devices it may see once, perhaps when torch is imported.
    _slot = slots.take() if cell.recipe.device != "cpu" else None
    from dgd.train import generate

    try:
        manifest = generate.generate(cell, results=args.results, base=args.base, out=args.out)
    except (ValueError, OSError) as error:  # what a person can set right, in one line
        sys.exit(str(error))
    write_text(args.out / MADE_FROM, json.dumps(Images(cell, args.out).made_from, indent=1) + "\n")
    if "failed" in manifest:
        # Recorded: the cells that would train on them say so, and the others go on.
        print(manifest["failed"], file=sys.stderr)
    print(f"{args.out}: {manifest['sizes']['train']:,} training images", flush=True)


if __name__ == "__main__":
    script.run(main)
