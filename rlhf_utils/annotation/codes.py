"""Invitation codes and other secrets: how they are made, what is kept of them, how they are compared."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable

ALPHABET = "ABCDEFGHJKMNPQRSTVWXYZ23456789"  #: no 0, 1, I, L, O or U, which are misread
GROUPS, GROUP_LENGTH = 4, 4


def new_code() -> str:
    """A code to type, such as ``K7QM-2XWA-9DNE-HT4C``: 16 signs of 30, so 78 bits.

    So many can't be guessed, which is why a fast hash is enough to keep them.
    """
    letters = [secrets.choice(ALPHABET) for _ in range(GROUPS * GROUP_LENGTH)]
    return "-".join("".join(letters[i : i + GROUP_LENGTH]) for i in range(0, len(letters), GROUP_LENGTH))


def new_token() -> str:
    """256 bits as text, for cookies and for one showing of a pair."""
    return secrets.token_urlsafe(32)


def code_hash(code: str) -> str:
    """SHA-256 of a code as it was meant: upper case, without spaces and hyphens."""
    meant = "".join(sign for sign in code.upper() if sign.isalnum())
    return token_hash(meant)


def token_hash(token: str) -> str:
    """SHA-256 of a token, as 64 hex digits."""
    return hashlib.sha256(token.encode("utf8", "surrogatepass")).hexdigest()


def find(wanted: str, hashes: Iterable[str]) -> int | None:
    """The place of a hash among others, in a time that doesn't tell which it is or how much of it was right.

    Args:
        wanted: of what was typed.
        hashes: those that are known; all are looked at.
    """
    found = None
    for place, known in enumerate(hashes):
        if hmac.compare_digest(known, wanted):
            found = place
    return found


def form_token(session: str) -> str:
    """What a form carries to show that it came from a page of ours: a keyed hash of the session's token."""
    return hmac.new(session.encode("utf8", "surrogatepass"), b"form", hashlib.sha256).hexdigest()


def address_hash(address: str, secret: str) -> str:
    """A keyed hash of a network address; one of an IPv6 network's addresses stands for its 2⁶⁴.

    Args:
        address: as the server names it; anything else counts as one more address.
        secret: of the study.
    """
    try:
        parsed = ipaddress.ip_address(address)
        if parsed.version == 6:
            address = str(ipaddress.ip_network((parsed, 64), strict=False))
    except ValueError:
        pass
    return hmac.new(secret.encode(), address.encode("utf8", "surrogatepass"), hashlib.sha256).hexdigest()
