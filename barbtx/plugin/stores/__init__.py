"""Secret stores that come with barbtx."""
