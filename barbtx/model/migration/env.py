"""alembic's entry: connects and runs the migrations."""

from __future__ import annotations

from alembic import context

from barbtx.model.database import make_engine
from barbtx.model.models import Base


def run() -> None:
    engine = make_engine(context.config.attributes["url"], 1, 30.0, bound_statements=False)
    with engine.connect() as connection:
        # SQLite would otherwise start to read, and another process could have written before we do.
        connection = connection.execution_options(barbtx_write=True)
        context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True,
                          render_as_batch=engine.dialect.name == "sqlite")
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


run()
