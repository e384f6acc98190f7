"""Repositories: each public method is one transaction and returns a Deferred.

Their statements live in plain functions that take a session, so that two repositories can share a transaction.
"""
