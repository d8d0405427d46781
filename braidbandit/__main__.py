"""``python -m braidbandit`` is the command ``braidbandit``."""

from __future__ import annotations

import sys

from braidbandit.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
