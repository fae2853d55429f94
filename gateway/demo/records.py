"""The demonstration's CRM itself: a dictionary of records, the same at every start."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

PREFIXES = {"Account": "ACC", "Contact": "CON", "Opportunity": "OPP"}

_ACCOUNTS = ("Northwind", "Acme Industrial", "Globex", "Initech", "Umbra Logistics")
_PEOPLE = ("Ada Moss", "Ben Okafor", "Chiara Ferri", "Dmitri Lund", "Emi Tanaka", "Farid Aziz")


class Record(BaseModel):
    id: str
    object_name: str
    fields: dict[str, str]


class Email(BaseModel):
    id: str
    to: list[str]
    subject: str


class NoSuchRecord(ToolError):
    """No record has this id."""


@dataclass
class Crm:
    """Records by id, in the order of their making; e-mails go nowhere."""

    records: dict[str, Record] = field(default_factory=dict)
    outbox: list[Email] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)

    def find(self, object_name: str, contains: str) -> list[Record]:
        wanted = contains.casefold()
        return [
            record
            for record in self.records.values()
            if record.object_name == object_name
            and any(wanted in value.casefold() for value in (record.id, *record.fields.values()))
        ]

    def create(self, object_name: str, fields: Mapping[str, str]) -> Record:
        self.made[object_name] += 1
        record_id = f"{PREFIXES[object_name]}-{self.made[object_name]:04}"
        record = Record(id=record_id, object_name=object_name, fields=dict(fields))
        self.records[record_id] = record
        return record

    def update(self, record_id: str, fields: Mapping[str, str]) -> Record:
        self._get(record_id).fields.update(fields)
        return self._get(record_id)

    def delete(self, record_id: str) -> Record:
        record = self._get(record_id)
        del self.records[record_id]
        return record

    def send(self, to: list[str], subject: str, body: str) -> Email:
        email = Email(id=f"MSG-{len(self.outbox) + 1:04}", to=to, subject=subject)
        self.outbox.append(email)
        return email

    def _get(self, record_id: str) -> Record:
        if record_id not in self.records:
            raise NoSuchRecord(f"no record has the id {record_id}")
        return self.records[record_id]


def sample() -> Crm:
    """A CRM with a few accounts, their people and what they might buy."""
    crm = Crm()
    for number, name in enumerate(_ACCOUNTS, 1):
        crm.create("Account", {"name": name, "city": "Basel", "employees": str(number * 120)})
    for number, name in enumerate(_PEOPLE):
        account = _ACCOUNTS[number % len(_ACCOUNTS)]
        address = f"{name.split()[0].lower()}@{account.split()[0].lower()}.example"
        crm.create("Contact", {"name": name, "account": account, "email": address})
    for number, account in enumerate(_ACCOUNTS, 1):
        amount = str(number * 15_000)
        crm.create("Opportunity", {"name": f"{account} renewal", "amount": amount, "stage": "open"})
    return crm


def as_csv(records: Iterable[Record]) -> str:
    """One line a record: id, kind and each field as ``name=value``."""
    text = io.StringIO()
    writer = csv.writer(text)
    for record in records:
        pairs = [f"{name}={value}" for name, value in record.fields.items()]
        writer.writerow([record.id, record.object_name, *pairs])
    return text.getvalue()
