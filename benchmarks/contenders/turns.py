"""How a contender takes turns: it works through one round each time the referee says so, and reports it as JSON.

Every contender is a process of its own, since two versions of TRL can't live in one. Only one works at a time.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


class Turns:
    """The contender's side of the conversation with ``bench.py``; its folder holds the work."""

    def __init__(self) -> None:
        self.folder = Path(sys.argv[1])
        self.work = json.loads((self.folder / "work.json").read_text())
        # Libraries print; only the conversation may go to the true standard output.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> None:
        """Say that the last round is over and wait for the word to begin the next; leave when there is none."""
        self._say({"ready": True})
        if sys.stdin.readline().strip() != "go":
            os._exit(0)

    def report(self, **facts: float) -> None:
        """Tell what the round took."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._say(facts | {"peak_mib": peak})

    def _say(self, facts: dict[str, object]) -> None:
        print(json.dumps(facts), file=self._out, flush=True)
