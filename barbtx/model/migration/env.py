"""The script that alembic runs for every command: it connects and runs the migrations."""

from __future__ import annotations

from alembic import context

from barbtx.model.engine import make_engine
from barbtx.model.migration import known_revisions
from barbtx.model.migration.lock import schema_lock
from barbtx.model.migration.ownership import check_ownership
from barbtx.model.models import Base


def run() -> None:
    """Run the migrations of the current command in one transaction, while no other upgrade of the database runs."""
    attributes = context.config.attributes
    engine = make_engine(attributes["url"], 1, 30.0, bound_statements=False)
    if engine.dialect.name == "postgresql":
        # A statement after a wait for a lock must see what was committed meanwhile, whatever the server's default is.
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    try:
        with engine.connect() as connection:
            # On SQLite this begins a write transaction, so that no other process writes between our reads and writes.
            connection = connection.execution_options(barbtx_write=True)
            with schema_lock(connection, attributes["wait_seconds"]):
                check_ownership(connection, known_revisions())
                context.configure(
                    connection=connection,
                    target_metadata=Base.metadata,
                    compare_type=True,
                    render_as_batch=engine.dialect.name == "sqlite",
                )
                with context.begin_transaction():
                    context.run_migrations()
                connection.commit()
    finally:
        engine.dispose()


run()
