"""barbtx: a key manager that speaks the OpenStack Key Manager API v1."""

__version__ = "1.0.0rc1"
