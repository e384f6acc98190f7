"""The declarative base and the column types that the models share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import DateTime, LargeBinary, MetaData, String, TypeDecorator
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase

# MariaDB compares text case-insensitively and stores whole seconds unless these options and types say otherwise.
TABLE_OPTIONS = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
#: A time in UTC, without a zone, to the microsecond.
Time = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
#: Bytes, up to 16 MiB.
Bytes = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
#: A UUID in its text form.
Id = String(36)


class FreeText(TypeDecorator[str]):
    """Text of at most 255 arbitrary characters.

    PostgreSQL's text types cannot hold NUL, so NUL is stored as a sequence of two characters. The escape character is
    from the private use area and therefore rare; it is itself stored as two characters.
    """

    impl = String(510)
    cache_ok = True
    _ESCAPE, _NUL, _SELF = "\uf8fe", "\uf8fe0", "\uf8fe1"

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        """Escape NUL characters."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.replace(self._ESCAPE, self._SELF).replace("\0", self._NUL)

    def process_result_value(self, value: str | None, dialect: object) -> str | None:
        """Restore NUL characters."""
        if value is None or value.isascii():
            return value
        return value.replace(self._NUL, "\0").replace(self._SELF, self._ESCAPE)


class Base(DeclarativeBase):
    """Base of the models: naming conventions of constraints, and the table options of MariaDB."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    __table_args__: Any = (TABLE_OPTIONS,)
