"""What a tuning is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from regraft.models.net import Headed


class Tuning(ABC):
    """Decide which weights learn. Decides from options and the network alone and leaves nothing behind on modules.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def trainable(self, net: Headed) -> set[str]:
        """Return the names (of `net.named_parameters()`) that learn; the rest is frozen and runs in evaluation mode."""
