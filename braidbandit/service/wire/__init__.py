"""What callers send: OpenAI's bodies, checked, and as the rest takes them."""
