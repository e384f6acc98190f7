"""Secret stores and crypto plugins; :mod:`barbtx.plugin.resources` is how the rest of barbtx uses them."""
