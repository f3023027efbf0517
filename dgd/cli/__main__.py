"""`python -m dgd.cli`, which is `dgd-bench`."""

import sys

from dgd.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
