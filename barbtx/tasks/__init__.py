"""The tasks that run outside of requests: processing orders and removing projects."""
