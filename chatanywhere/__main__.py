"""`python -m chatanywhere`, and the command `chatanywhere`: the command line."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line, and end the process with its exit code."""
    usual = signal.getsignal(signal.SIGINT)  # ignored by what was started in the background
    early = usual if usual is signal.SIG_IGN else _leave
    signal.signal(signal.SIGINT, early)
    try:
        from .cli import main as run

        signal.signal(signal.SIGINT, usual)
        code = run()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, early)
    sys.exit(code)


def _leave(*_: object) -> NoReturn:
    """End at once, where there is nothing to keep: Python would show what it was about."""
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
