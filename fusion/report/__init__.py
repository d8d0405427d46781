"""What fusing two models brings, beside every control: ``python -m fusion.report``."""
