"""What fusing two models brings, beside every control: ``python -m fusion.report``."""

from fusion.report.held_out import packaged_texts, read_texts

__all__ = ["packaged_texts", "read_texts"]
