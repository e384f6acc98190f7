"""The speed of the API, in units of what the same machine does with a bare Klein application."""
