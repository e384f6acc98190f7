"""One module per resource, one class per shape of URL."""
