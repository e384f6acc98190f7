"""Secret stores and crypto plugins, and :mod:`barbtx.plugin.resources`, which puts them to work."""
