"""Text on its way: written by local models, or handed on from a URL."""
