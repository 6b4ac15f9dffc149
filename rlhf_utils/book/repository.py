"""Where the book's source is published: the one place that knows the repository's address."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_GITHUB = re.compile(
    r"^(?:https://(?:[^@/]+@)?github\.com/|(?:ssh://)?git@github\.com[:/])([\w.-]+/[\w.-]+?)(?:\.git)?/?$"
)


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub.

    Args:
        name: owner and name, such as ``"someone/rlhf-textbook"``.
        branch: the branch that links point to.
    """

    name: str
    branch: str = "main"

    @property
    def url(self) -> str:
        """The address of its page."""
        return f"https://github.com/{self.name}"

    @property
    def site(self) -> str:
        """The address of the site that its workflow publishes, with a slash at the end."""
        owner, _, name = self.name.partition("/")
        return f"https://{owner.lower()}.github.io/" + (
            "" if name.lower() == f"{owner}.github.io".lower() else f"{name}/"
        )


def parse_remote(url: str) -> str | None:
    """Owner and name from the address of a git remote; ``None`` unless it is on GitHub."""
    match = _GITHUB.match(url.strip())
    return match.group(1) if match else None


def find_repository(root: Path) -> Repository | None:
    """The repository that ``$GITHUB_REPOSITORY`` names, else the one that git's remote ``origin`` points to.

    Args:
        root: a folder of the working tree.
    """
    branch = os.environ.get("GITHUB_REF_NAME") or "main"
    # A pull request's name, such as "12/merge", is no branch that a link could point to.
    branch = "main" if branch.endswith("/merge") else branch
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return Repository(name, branch)
    try:
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name = parse_remote(result.stdout) if result.returncode == 0 else None
    return Repository(name, branch) if name else None
