"""Controllers: a module for each resource, a class for each URL shape."""
