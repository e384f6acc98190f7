"""Test support: private servers, running services, builders."""
