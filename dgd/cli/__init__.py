"""`dgd-bench`: one thing at a time, without Snakemake.

`entry` runs a command line and says how it ended; `common` has what commands share. The commands lie by what they do:
`listing` names what there is, `training` trains, `own_files` begins and tries a user's own files, `reading` reads finished
cells, `keeping` guards folders of results, `machine` says what this machine has. A command imports what it needs when it runs,
so that `--help` takes no time.
"""

from dgd.cli.entry import main

__all__ = ["main"]
