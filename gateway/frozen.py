"""Values that nothing alters: slotted dataclasses, frozen by the type checker.

A dataclass that is frozen at run time sets each field by a call of its own, which makes it five
times as dear to construct; a tool call constructs forty. See docs/decisions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TypeVar, dataclass_transform

Value = TypeVar("Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[Value]) -> type[Value]:
    """As ``dataclass(frozen=True, slots=True)``, hashable too; who assigns fails in mypy.

    Equality, hash and text are closures here: a dataclass compiles source for each of the three,
    which for the hundreds of values of a gateway is a part of its start that one notices.
    """
    made = dataclass(slots=True, eq=False, repr=False)(cls)
    names = [one.name for one in fields(made)]  # type: ignore[arg-type]
    shown = [one.name for one in fields(made) if one.repr]  # type: ignore[arg-type]
    content = _content(names)

    def equal(self: object, other: object) -> object:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return content(self) == content(other)

    def hashed(self: object) -> int:
        return hash(content(self))

    def text(self: object) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{self.__class__.__qualname__}({inside})"

    for name, method in (("__eq__", equal), ("__hash__", hashed), ("__repr__", text)):
        method.__qualname__ = f"{made.__qualname__}.{name}"
        setattr(made, name, method)
    return made


def _content(names: list[str]) -> Callable[[object], object]:
    return attrgetter(*names) if names else lambda _: ()
