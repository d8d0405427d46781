"""Setting up, and what is on this machine: models, servers, faults."""
