"""Reinforcement learning from human feedback, small enough to read: the package behind the book.

One direction of dependence: ``tasks → sft → preferences → reward → rollout → ppo → evaluation → pipeline``. Importing
the package itself loads nothing heavy.
"""

import os
import sys

# These variables are read once, when torch and tokenizers are loaded, so they are set before any module here imports
# them. A waiting OpenMP thread spins by default. On a shared machine the spinning steals the core that the other thread
# needs, and a step can take forty times as long. Passive waiting costs a few per cent on an idle machine.
# Whoever imports torch first has spinning threads; `runtime.use_threads` then takes one.
THREADS_SPIN = "torch" in sys.modules and os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The fast tokenizers warn, at every fork of a data loader, unless this is set.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

__version__ = "0.1.0"
