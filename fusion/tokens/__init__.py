"""Bytes of tokens: two tokenisations of one text, and their vocabularies."""
