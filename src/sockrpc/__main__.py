"""`python -m sockrpc`."""

import sys

from sockrpc.cli import main

if __name__ == "__main__":
    sys.exit(main())
