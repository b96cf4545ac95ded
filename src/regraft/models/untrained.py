"""What untrained bases share: nothing to fetch, a network from a configuration, weights drawn from the seed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from regraft.modalities.modality import Modality
from regraft.models.base import Base, BaseCard
from regraft.options import JSON, to_json

if TYPE_CHECKING:
    from regraft.models.backbones import Backbone


class Untrained(Base):
    """A network made from options.

    A subclass names its options (with a `pooling`), its modality, its architecture, and turns a modality into a configuration.
    """

    pretrained = False
    model_type: ClassVar[str]
    """Name of the architecture, as in the configuration."""
    what: ClassVar[str]
    """One line for lists of bases."""
    reads_type: ClassVar[type[Modality]]
    """The modality that it can make a network for."""

    @abstractmethod
    def config(self, modality: Any) -> dict[str, JSON]:
        """Return the hub's configuration as JSON.

        Args:
            modality: An instance of `reads_type`.

        Raises:
            OptionsError: The options do not go together.
        """

    def card(self) -> BaseCard:
        """Describe the base without importing anything heavy."""
        return BaseCard(
            name=self.name,
            modality=self.modality_name,
            what=self.what,
            parameters=0,
            size_bytes=0,
            licence="Apache-2.0",
            source="made here from options",
            fetched=True,
        )

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """There is nothing to fetch; bases whose options must fit each other check that here, before anything is read."""

    def backbone(self, modality: Modality, seed: int) -> Backbone:
        """Return the network with weights drawn from `seed`; torch's own generator is left as it was."""
        import torch

        from regraft.models.architectures import ARCHITECTURES
        from regraft.models.backbones import Backbone, Body, PoolingChoice, detach_unused, make_config

        if not isinstance(modality, self.reads_type):
            raise TypeError(f"'{self.name}' reads {self.modality_name}, not {type(modality).__name__}")
        self.fetch()
        config = make_config(self.config(modality), self.name)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            from transformers import AutoModel

            model = AutoModel.from_config(config)
        body = Body(model, ARCHITECTURES[self.model_type])
        body.unused = detach_unused(model, keep=True)
        return Backbone(body, PoolingChoice(self.options.pooling, "chosen by option", seed))

    def origin(self) -> dict[str, JSON]:
        """Return what the manifest records."""
        return {"name": self.name, "source": "from scratch", "options": to_json(self.options), "licence": "Apache-2.0"}
