"""What the tests of models share."""

from fixtures_base import minilm

__all__ = ["minilm"]
