"""`python -m videodit` is the `videodit` command."""

from __future__ import annotations

import sys

from videodit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
