"""Values that nothing alters: slotted dataclasses, frozen by the type checker.

A dataclass that is frozen at run time sets each field by a call of its own, which makes it five
times as dear to construct; a tool call constructs forty. See docs/decisions.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Value = TypeVar("Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[Value]) -> type[Value]:
    """As ``dataclass(frozen=True, slots=True)``, hashable too; who assigns fails in mypy."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
