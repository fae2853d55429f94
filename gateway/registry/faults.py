"""Why the registry refuses a change or finds nothing; the API answers each with its status.

::

    Fault
     ├─ Missing    404  not in this project, or nowhere: the two look alike
     ├─ Invalid    400  what was asked for cannot be; says so field by field
     ├─ Conflict   409  it was true once; the state has moved on
     ├─ Forbidden  403  this person may not do it, whatever the role
     └─ Unready    503  something that is needed for it does not answer now
"""

from collections.abc import Mapping


class Fault(Exception):
    """Base of all; the message is meant for the person who asked."""


class Missing(Fault):
    def __init__(self, noun: str) -> None:
        super().__init__(f"No such {noun}.")


class Invalid(Fault):
    """``fields`` maps a dotted field name to what is wrong with it."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields = dict(fields)
        super().__init__("The request has faults; see details.")


class Conflict(Fault):
    pass


class Forbidden(Fault):
    pass


class Unready(Fault):
    pass
