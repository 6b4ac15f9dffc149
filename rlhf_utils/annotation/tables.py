"""The tables of a store. A store holds one study; people are known by a pseudonym and by nothing else.

A change here needs a migration in ``_migrations/versions``; a test holds the two against each other.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

NAME_LENGTH = 64  #: of a pseudonym, in characters
SOURCE_LENGTH = 200  #: of what a record says of where it comes from

# Constraints have names, so that a migration can speak of them on every database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row. Codes of staff aren't kept: whoever starts the server chooses or is told one.
study = Table(
    "study",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one"), primary_key=True, autoincrement=False),
    Column("title", Text, nullable=False),
    Column("instructions", Text, nullable=False),
    Column("consent", Text, nullable=False),
    Column("judgements_wanted", Integer, nullable=False),
    Column("pairs_each", Integer, nullable=False),
    Column("check_every", Integer, nullable=False),
    Column("hasty_seconds", Float, nullable=False),
    Column("reservation_seconds", Float, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("secret", String(64), nullable=False),
)

# `judged` counts judgements other than skips, so that the next free pair is found without counting all of them. Of
# pairs that equally many people judged, the one of higher priority is handed out first; both fall, so an index serves.
pairs = Table(
    "pairs",
    metadata,
    Column("pair_id", String(64), primary_key=True),
    Column("priority", Integer, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("response_a", Text, nullable=False),
    Column("response_b", Text, nullable=False),
    Column("answer", String(3)),
    Column("judged", Integer, nullable=False),
    Index("ix_pairs_free", "answer", "judged", "priority"),
)

annotators = Table(
    "annotators",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(NAME_LENGTH), nullable=False, unique=True),
    Column("code_hash", String(64), unique=True),
    Column("consented_at", String(32)),
)

# The pair on somebody's screen: at most one a person.
assignments = Table(
    "assignments",
    metadata,
    Column("annotator", ForeignKey("annotators.id", ondelete="CASCADE"), primary_key=True),
    Column("pair_id", ForeignKey("pairs.pair_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("flipped", Boolean, nullable=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("shown_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

# `choice` is in terms of what was seen: a = the left one, which was response_b if the sides were flipped.
judgements = Table(
    "judgements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("annotator", ForeignKey("annotators.id", ondelete="CASCADE"), nullable=False),
    Column("pair_id", ForeignKey("pairs.pair_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("choice", String(4), nullable=False),
    Column("flipped", Boolean, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("source", String(SOURCE_LENGTH), nullable=False),
    CheckConstraint("choice IN ('a', 'b', 'tie', 'skip')", name="choice"),
    UniqueConstraint("annotator", "pair_id", name="uq_judgements_annotator_pair"),
)

# A person's sessions, or a member of staff's, where `annotator` is empty.
sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("annotator", ForeignKey("annotators.id", ondelete="CASCADE"), index=True),
    Column("expires_at", Float, nullable=False),
)

# Codes that were wrong, by a keyed hash of the address; a row lives for minutes.
attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("address_hash", String(64), nullable=False),
    Column("at", Float, nullable=False, index=True),
)
