"""`python -m fgpipe`."""

import sys

from fgpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
