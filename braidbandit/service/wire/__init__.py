"""What callers send and are sent: OpenAI's bodies, checked and told."""
