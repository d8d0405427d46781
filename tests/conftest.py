"""Settings for all tests: nothing is fetched, and runs are comparable."""

import os

# Before transformers is imported anywhere: a test must never reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
