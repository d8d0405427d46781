"""Commands around one decision, and what people say of it."""
