"""Repositories: each public method runs one transaction and returns a Deferred.

The statements are in plain functions of a session, so that two repositories can share a transaction.
"""
