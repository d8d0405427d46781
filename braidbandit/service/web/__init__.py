"""The addresses: who gets in, and what is answered there."""
