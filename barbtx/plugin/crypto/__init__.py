"""The crypto plugins that barbtx ships."""
