"""Authentication and authorization: who sends a request, and what policy allows them to do."""
