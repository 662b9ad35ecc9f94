"""What is said of prompts that are too long."""

from __future__ import annotations

__all__ = ["CutPromptWarning"]


class CutPromptWarning(UserWarning):
    """A prompt is longer than is read; the message names what was left out."""
