"""The interfaces for plugins: secret stores, and crypto plugins, which one of the secret stores uses."""
