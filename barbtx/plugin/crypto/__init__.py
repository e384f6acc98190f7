"""Crypto plugins that come with barbtx."""
