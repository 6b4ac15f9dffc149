"""What differs between terms and between students, drawn from a secret that isn't in the repository."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_utils.errors import UserError

VARIABLE = "RLHF_COURSE_TERM"  #: environment variable with the secret
SHORTEST = 12  #: characters; what is shorter can be guessed


@dataclass(frozen=True, repr=False)  # a secret isn't printed by mistake
class Term:
    """Draws that anybody who has the secret can repeat, and nobody else can foresee.

    Attributes:
        secret: any text of at least :data:`SHORTEST` characters, a new one each term.
    """

    secret: str

    def __post_init__(self) -> None:
        if len(self.secret) < SHORTEST:
            raise UserError(
                f"The term's secret has {len(self.secret)} characters.",
                f"Take at least {SHORTEST}: `python -c 'import secrets; print(secrets.token_hex(16))'` prints one.",
            )

    def number(self, *what: str) -> int:
        r"""HMAC-SHA256 of the names under the secret, as a number from 0 to :math:`2^{64} - 1`."""
        digest = hmac.new(self.secret.encode(), "\0".join(what).encode(), hashlib.sha256).digest()
        return int.from_bytes(digest[:8], "big")

    def choose(self, assignment: str, student: str, variants: dict[str, list[Any]]) -> dict[str, Any]:
        """A student's variant: one option of each kind.

        Args:
            assignment: its name.
            student: their id.
            variants: options by kind, as in the source's front matter.
        """
        return {
            kind: options[self.number("variant", assignment, student, kind) % len(options)]
            for kind, options in variants.items()
        }

    def seed(self, assignment: str, task: str) -> int:
        """Where the hidden tests' inputs come from: the same for all students, another one each term."""
        return self.number("tests", assignment, task)


def find_term(secret: str | None, file: Path | None) -> Term:
    """The secret from the command line, from a file, or from the environment, in this order.

    Args:
        secret: as given with ``--term``; seen by whoever lists the machine's processes.
        file: a file that holds nothing else.

    Raises:
        UserError: there is none, or it is too short.
    """
    if secret is None and file is not None:
        if not file.is_file():
            raise UserError(f"There is no file {file}.", "Write the term's secret into it, or give --term.")
        secret = file.read_text(encoding="utf8").strip()
    secret = secret if secret is not None else os.environ.get(VARIABLE)
    if not secret:
        raise UserError("The term's secret is missing.", f"Give --term-file FILE or --term SECRET, or set {VARIABLE}.")
    return Term(secret)
