"""Reinforcement learning from human feedback, small enough to read: the package behind the book.

One direction of dependence: ``tasks → sft → preferences → reward → rollout → ppo → evaluation → pipeline``. Importing the
package itself loads nothing heavy.
"""

__version__ = "0.1.0"
