"""The two seams at which others may put their own code: secret stores and, below one of them, crypto plugins."""
