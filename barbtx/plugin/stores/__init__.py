"""The secret stores that barbtx ships."""
