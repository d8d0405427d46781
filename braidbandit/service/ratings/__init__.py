"""What is remembered of answers, and what people say of them."""
