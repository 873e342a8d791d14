"""The entry point of the command line: `latte`, and `python -m latte`, which is how torchrun starts it."""

import sys


def run() -> int:
    """Run the command line. Returns its exit status, which is 130 if it is interrupted while importing."""
    try:
        from latte.cli import main
    except KeyboardInterrupt:
        print("latte: stopped; no result was written", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
