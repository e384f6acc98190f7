"""What barbtx remembers: tables, transactions and the repositories through which the rest of the house sees them."""
