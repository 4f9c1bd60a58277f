"""`python -m sockrpc.bench`."""

import sys

from sockrpc.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
