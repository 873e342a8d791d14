"""`python -m latte` runs the command line, which is how torchrun starts it."""

import sys

from latte.cli import main

if __name__ == "__main__":
    sys.exit(main())
