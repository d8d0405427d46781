"""Which arm answers a request."""
