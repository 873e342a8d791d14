"""`python -m latte` is the command `latte`; torchrun starts it as -m latte."""

import sys

from latte.cli import main

if __name__ == "__main__":
    sys.exit(main())
