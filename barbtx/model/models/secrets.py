"""Secrets: metadata, ciphertext, user metadata, and how many there are."""

from __future__ import annotations

import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from barbtx.model.models.base import Base, Bytes, FreeText, Id, Time

#: The day that stands for "never" in counts of secrets.
NEVER = datetime.date(9999, 12, 31)


class Secret(Base):
    """A secret's metadata. ``content_type`` and the two columns after it are null until the secret has a payload."""

    __tablename__ = "secrets"
    __table_args__ = (
        Index("ix_secrets_project_id_created_at_id", "project_id", "created_at", "id"),
        Index(
            "ix_secrets_project_id_expiration",
            "project_id",
            "expiration",
            postgresql_where=text("expiration IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str | None] = mapped_column(FreeText)
    secret_type: Mapped[str] = mapped_column(String(36))
    expiration: Mapped[datetime.datetime | None] = mapped_column(Time)
    algorithm: Mapped[str | None] = mapped_column(FreeText)
    bit_length: Mapped[int | None] = mapped_column(Integer)
    mode: Mapped[str | None] = mapped_column(FreeText)
    creator_id: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(20))
    content_type: Mapped[str | None] = mapped_column(String(255))
    store_plugin: Mapped[str | None] = mapped_column(String(255))
    store_metadata: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime.datetime] = mapped_column(Time)
    updated_at: Mapped[datetime.datetime] = mapped_column(Time)


class EncryptedDatum(Base):
    """The ciphertext of a secret whose store keeps it in this database."""

    __tablename__ = "encrypted_data"

    secret_id: Mapped[str] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"), primary_key=True)
    kek_id: Mapped[str] = mapped_column(ForeignKey("kek_data.id"), index=True)
    cypher_text: Mapped[bytes] = mapped_column(Bytes)
    kek_meta_extended: Mapped[str | None] = mapped_column(Text)


class SecretUserMetadatum(Base):
    """One key and value of a secret's user metadata."""

    __tablename__ = "secret_user_metadata"

    secret_id: Mapped[str] = mapped_column(ForeignKey("secrets.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    value: Mapped[str] = mapped_column(FreeText)


class SecretCount(Base):
    """How many secrets of a project expire on a day; :data:`NEVER` stands for those that do not expire.

    The number of secrets is this one and those of :class:`SecretCountChange`. Both tables are empty on other databases
    than PostgreSQL.
    """

    __tablename__ = "secret_counts"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    expires_on: Mapped[datetime.date] = mapped_column(primary_key=True)
    secrets: Mapped[int] = mapped_column(BigInteger)


class SecretCountChange(Base):
    """Secrets that were added, or removed if the number is negative, and are not in :class:`SecretCount` yet.

    Triggers insert the rows in the transaction that changes the secrets. They are separate from the counts, so that
    concurrent transactions do not wait for each other. The project may have been removed since.
    """

    __tablename__ = "secret_count_changes"
    __table_args__ = (Index("ix_secret_count_changes_project_id_expires_on", "project_id", "expires_on"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    project_id: Mapped[str] = mapped_column(Id)
    expires_on: Mapped[datetime.date]
    secrets: Mapped[int] = mapped_column(BigInteger)
