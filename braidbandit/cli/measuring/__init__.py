"""Commands that measure: a probe, a replay, policies beside each other."""
