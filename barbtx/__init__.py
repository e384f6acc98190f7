"""barbtx: a key manager that speaks the OpenStack Key Manager API v1."""

__version__ = "0.1.0"
