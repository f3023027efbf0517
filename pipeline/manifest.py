"""Write the manifest of a benchmark's results: `python -m pipeline.manifest --folder results/quick`."""

import argparse
from pathlib import Path

from dgd import frozen, manifest


def main(argv=None):
    """Write SHA256SUMS, with the hash of each file, unless a cell was changed that no training changed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the benchmark's results")
    args = parser.parse_args(argv)
    manifest.refuse_changed(args.folder, frozen.is_frozen(args.folder))
    manifest.write(args.folder)


if __name__ == "__main__":
    main()
