"""Validation of requests by resource: JSON Schemas, and the checks that these cannot express."""
