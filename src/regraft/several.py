"""Several things of one family as one option: a name, a list of names, or names with their options.

    regularize: Annotated[tuple[Pick, ...], Several("regraft.regularizers:REGULARIZERS")] = ()

takes `ema`, `[ema, swa]`, `{ema: {decay: 0.9}, swa: {}}` (so that `--set train.regularize.ema.decay=0.99` works), and
a list of what a single `Pick` takes. Each name may stand once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.errors import Problem, UsageError
from regraft.options import JSON, Among, Pick

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import PydanticCustomError, core_schema


@dataclass(frozen=True)
class Several:
    """Annotate a field of type `tuple[Pick, ...]` with the registry that all of them are picked from.

    Args:
        registry: "module:ATTRIBUTE" of the registry, imported when a value is checked.
    """

    registry: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, JSON]:
        one = Among(self.registry).__get_pydantic_json_schema__(schema, handler)
        return {"type": "array", "items": one}

    def check(self, value: object) -> tuple[Pick, ...]:
        """Return checked picks, in the order in which they were named."""
        from pydantic_core import PydanticCustomError

        among = Among(self.registry)
        problems: list[Problem] = []
        picks: list[Pick] = []
        for one in _listed(value):
            try:
                picks.append(among.check(one))
            except PydanticCustomError as error:
                problems += (error.context or {}).get("problems") or [Problem(what=error.message(), got=repr(one)[:200])]
            except UsageError as error:
                problems += error.problems
        names = [pick.name for pick in picks]
        for name in sorted({name for name in names if names.count(name) > 1}):
            problems.append(Problem(what=f"'{name}' is named twice", fix="name it once"))
        if problems:
            raise _refusal(problems)
        return tuple(picks)


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, Mapping) and "name" not in value:
        return [_named(str(name), given) for name, given in value.items()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _named(name: str, given: object) -> object:
    if given is None:
        return name
    return {"name": name, **given} if isinstance(given, Mapping) else {name: given}


def _refusal(problems: list[Problem]) -> PydanticCustomError:
    from pydantic_core import PydanticCustomError

    return PydanticCustomError("regraft", "see problems", {"problems": problems})
