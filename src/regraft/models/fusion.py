"""The base `fusion`: columns of several kinds in one row, each read by a base of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from regraft.errors import DataError, OptionsError, Problem, did_you_mean
from regraft.modalities import MODALITIES
from regraft.modalities.fusion import Fusion, Part, part_keys, value_of
from regraft.modalities.fusion_survey import Asked, asked
from regraft.models import BASES
from regraft.models.base import Base, BaseCard
from regraft.models.scratch import Dropout, Width
from regraft.options import JSON, Among, Pick, build, options, to_json

if TYPE_CHECKING:
    from regraft.modalities.modality import Modality
    from regraft.models.fused import Fused

_FEWEST = 2


@options
class FusionBaseOptions:
    """Which base reads which part, and how they are joined."""

    parts: dict[str, Any] = Field(default_factory=dict)
    """Part -> its base: a name, or a name with options ({name: lstm, width: 64}); the usual base of its kind if not given. A
    part is called as its column, a table as `table`."""

    style: Literal["concat", "gated", "weighted", "early", "late", "towers"] = "concat"
    """How parts are joined: one after the other through a hidden layer; a sum with gates that see all parts; a sum with one
    weight a part; the positions of all parts through a small transformer; or a head for each part and a mixture of their
    probabilities. `weighted` and `late` only add up what parts say. `towers` keeps parts apart, for tasks that hold them
    against each other; such a task takes it by itself."""

    width: Width = 128
    """Width of the joined vector (not of `late` and `towers`); an even number."""

    layers: Annotated[int, Field(ge=1, le=16)] = 2
    """Layers of the transformer of `early`."""

    heads: Annotated[int, Field(ge=1, le=64)] = 4
    """Its attention heads; must divide the width."""

    dropout: Dropout = 0.1
    """Share of numbers dropped in the joining in training."""

    part_dropout: Dropout = 0.1
    """Share of parts that are left out of training rows at random, never all of a row, so that rows that lack one can be
    answered; 0 where no row ever does."""


@options
class _Chosen:
    """A base by name."""

    base: Annotated[Pick, Among("regraft.models:BASES", "regraft.models.hub:as_base")]
    """The name, or a name with options."""


def base_named(value: JSON, where: str) -> Base:
    """Return a base from a name, or a mapping with a name and options.

    Args:
        value: As it stands in options.
        where: What messages call the place.

    Raises:
        OptionsError: There is no such base, or its options are wrong.
    """
    pick = build(_Chosen, {"base": value}, owner=where).base
    cls, chosen = pick.resolve(BASES)
    return cls(pick.name, chosen)


class FusionBase(Base):
    """Columns of several kinds in one row (texts, pictures, tables, ...), each read by a base of its own."""

    Options: ClassVar[type[Any]] = FusionBaseOptions
    modality_name = "fusion"
    joins: ClassVar[bool] = True

    def __init__(self, name: str, options: FusionBaseOptions) -> None:
        super().__init__(name, options)
        self.bases = {part: base_named(value, f"base.parts.{part}") for part, value in options.parts.items()}
        self.pretrained = any(base.pretrained for base in self.bases.values())

    def card(self) -> BaseCard:
        """Describe the base without fetching or importing anything heavy."""
        cards = [base.card() for base in self.bases.values()]
        named = ", ".join(f"{part}: {card.name}" for part, card in zip(self.bases, cards, strict=True))
        return BaseCard(
            name=self.name,
            modality=self.modality_name,
            what=f"several parts of a row, each by a base of its own ({named or 'text, pictures, tables, ...'})",
            parameters=sum(card.parameters for card in cards),
            size_bytes=sum(card.size_bytes for card in cards),
            licence=" and ".join(sorted({card.licence for card in cards})) or "Apache-2.0",
            source="; ".join(dict.fromkeys(card.source for card in cards)) or "made here from options",
            fetched=all(card.fetched for card in cards),
        )

    def fetch(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Fetch the bases of all parts, and check the options against each other.

        Raises:
            OptionsError: The heads do not divide the width, or there are fewer than two parts.
            BaseError: A base cannot be fetched or trusted.
        """
        sizes = self.options
        problems = []
        if sizes.width % sizes.heads:
            what, expected = "the option 'heads' has a value it cannot take", f"a divisor of the width {sizes.width}"
            fix = "change 'heads'"
            problems.append(Problem(what=what, where="base.heads", got=str(sizes.heads), expected=expected, fix=fix))
        if len(self.bases) < _FEWEST:
            fix = "name columns of two kinds at least, such as --text COLUMN --table A,B"
            got = ", ".join(self.bases) or "none"
            problems.append(Problem(what="a fusion needs two parts", where="base.parts", got=got, fix=fix))
        if problems:
            raise OptionsError(problems)
        for base in self.bases.values():
            base.fetch(say)

    def verify(self) -> None:
        """Check every byte of what was fetched for all parts."""
        for base in self.bases.values():
            base.verify()

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return the preprocessing of all parts, each as its base prepares it, learnt from the rows that have the part.

        Args:
            options: `parts` says for each what reads which columns, with the options of that modality; a part that it does not
                name reads the column of its name, or all that no other part reads.
            raws: Gives the training rows again from the start, in chunks.

        Raises:
            DataError: No training row has a part.
            OptionsError: A part has no base.
        """
        wanted = self._asked(options.get("parts", {}), raws)
        keys = part_keys([part.name for part in wanted])
        made = []
        for part, key in zip(wanted, keys, strict=True):
            values = _values(part, raws)
            if not any(map(len, values())):
                raise DataError(_absent(part))
            asked_of = {**part.options, "columns": list(part.columns)} if part.kind.over else part.options
            made.append(Part(part.name, key, part.columns, self.bases[part.name].prepared(part.kind, asked_of, values)))
        return Fusion(made)

    def _asked(self, parts: Mapping[str, Mapping[str, JSON]], raws: Callable[[], Iterator[Sequence[Any]]]) -> list[Asked]:
        strange = [name for name in parts if name not in self.bases]
        if strange:
            fix = did_you_mean(strange[0], list(self.bases))
            raise OptionsError(Problem(what=f"the part '{strange[0]}' has no base", where="modality.parts", fix=fix))
        said = {}
        for name, base in self.bases.items():
            own = dict(parts.get(name, {}))
            own.setdefault("name", base.reads)
            if not own.get("columns") and MODALITIES.get(own["name"]).survey({}) is None:
                own["columns"] = [name]
            said[name] = own
        taken = {column for part in asked(said) for column in part.columns}
        for own in said.values():
            if not own.get("columns"):
                first: Mapping[str, Any] = next((raw for chunk in raws() for raw in chunk), {})
                own["columns"] = [column for column in first if column not in taken]
        return asked(said)

    def backbone(self, modality: Modality, seed: int) -> Fused:  # type: ignore[override]
        """Return the backbones of all parts as one; what is untrained is drawn from the seed."""
        from regraft.models.fused import Fused, PartEntry
        from regraft.models.joinings import Sizes

        if not isinstance(modality, Fusion):
            raise TypeError(f"'{self.name}' reads several parts, not {type(modality).__name__}")
        parts = []
        for place, part in enumerate(modality.parts):
            base = self.bases[part.name]
            backbone = base.backbone(part.modality, seed + place)
            parts.append(PartEntry(part.key, backbone, part.modality.longest, not base.pretrained))
        chosen = self.options
        sizes = Sizes(
            widths=tuple(part.backbone.width for part in parts),
            width=chosen.width,
            layers=chosen.layers,
            heads=chosen.heads,
            dropout=chosen.dropout,
            part_dropout=chosen.part_dropout,
        )
        return Fused(parts, chosen.style, sizes, seed)

    def origin(self) -> dict[str, JSON]:
        """Return what the manifest records: of every part where its base came from."""
        parts = {name: base.origin() for name, base in self.bases.items()}
        licences = sorted({str(origin.get("licence", "unknown")) for origin in parts.values()})
        chosen = {key: value for key, value in to_json(self.options).items() if key != "parts"}
        said = {"name": self.name, "source": "several bases", "options": chosen, "licence": " and ".join(licences)}
        return {**said, "parts": parts}


def _values(part: Asked, raws: Callable[[], Iterator[Sequence[Any]]]) -> Callable[[], Iterator[Sequence[Any]]]:
    """Return what gives the raw values of one part, of the rows that have it."""
    together = part.together

    def values() -> Iterator[Sequence[Any]]:
        for chunk in raws():
            found = (value_of(raw, part.columns, together=together) for raw in chunk)
            yield [value for value in found if value is not None]

    return values


def _absent(part: Asked) -> Problem:
    names = ", ".join(f"'{column}'" for column in part.columns)
    fix = f"leave it out of --{part.reads}, or give training rows that have it"
    what = f"the part '{part.name}' is missing in every training row"
    return Problem(what=what, where=names, got="nothing", expected="rows that have it", fix=fix)
