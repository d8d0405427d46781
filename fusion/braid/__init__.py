"""The model: strands, fusers between them, and what a request remembers."""
