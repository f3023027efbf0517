"""Prepare a data set: `python -m pipeline.prepare --dataset digits --data '{"dir": "data"}' --out <folder>`."""

import argparse
import json
from pathlib import Path

from dgd import data


def main(argv=None):
    """Prepare one data set from the `data` part of a config."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--dataset", required=True, help="digits, cifar10, ... or imagefolder:<path>")
    parser.add_argument("--data", type=json.loads, required=True, help="the config's `data` keys, as JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    keys = ("train_images", "validation_images", "image_size", "loader")
    options = {key: args.data[key] for key in keys if key in args.data}
    data.prepare(args.dataset, args.out, data_dir=args.data.get("dir", "data"), **options)


if __name__ == "__main__":
    main()
