"""The Key Manager API v1 over HTTP."""
