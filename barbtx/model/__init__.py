"""Persistence: tables, migrations, transactions, and the repositories that the rest of barbtx uses."""
