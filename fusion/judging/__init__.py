"""Scores and rewards: bits per byte, right answers, code that runs."""
