"""Start the processes of one cell by torchrun, with its options, and say in one line which of them was killed.

torchrun itself prints pages. What a process says of its own error stands alone. It builds no network: start it with
DGD_NETWORKS=no.
"""

import logging
import os
import signal
import sys


def main() -> None:
    """Run torchrun's command line; exit status 1 where a process of the cell failed."""
    os.environ.pop("DGD_NETWORKS", None)  # the cell's processes build networks
    logging.disable(logging.ERROR)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main()
    except ChildFailedError as error:
        killed = {rank: signal.Signals(-one.exitcode).name for rank, one in error.failures.items() if one.exitcode < 0}
        killed = {rank: name for rank, name in killed.items() if name != "SIGTERM"} or killed  # by which the others are ended
        for rank, name in list(killed.items())[:1]:
            print(f"\nprocess {rank} of the cell was ended by {name}; start the cell again, it goes on", file=sys.stderr)
        sys.exit(1)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
