"""Carrying tasks from the API to whoever runs them."""
