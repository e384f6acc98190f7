"""Authentication and authorization: the callers of requests, and their permissions."""
