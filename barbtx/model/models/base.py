"""The declarative base and the column types that the models share."""

from __future__ import annotations

from sqlalchemy import DateTime, LargeBinary, MetaData, String, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase


class _Time(DateTime):
    pass


class _Bytes(LargeBinary):
    pass


# Without these types MariaDB would store whole seconds and 64 KiB. SQLAlchemy's own types would load its dialects for
# MySQL into each process, and so would options of tables whose names begin with mysql.
compiles(_Time, "mysql", "mariadb")(lambda element, compiler, **options: "DATETIME(6)")
compiles(_Bytes, "mysql", "mariadb")(lambda element, compiler, **options: "MEDIUMBLOB")

#: A time in UTC, without a zone, to the microsecond.
Time = _Time()
#: Bytes, up to 16 MiB.
Bytes = _Bytes()
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
    """Base of the models: naming conventions of constraints.

    The migrations set the options of tables, such as MariaDB's collation.
    """

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
