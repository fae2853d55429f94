"""Forms from JSON Schema, and back: what the API takes is what a page asks for.

A value that does not read as its type is passed on as it was typed, so that the operation itself
says what is wrong with it, and the form shows that beside the field with what was typed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jiter
import orjson

from gateway.frozen import frozen

Kind = Literal[
    "text", "long", "number", "amount", "check", "choice", "list", "json", "time", "secret"
]
Schema = Mapping[str, Any]
Choices = Mapping[str, Sequence[tuple[str, str]]]

_LONG = {"reason", "description"}


@frozen
class FormField:
    """One field as it is drawn."""

    name: str
    """Dotted, as faults name it."""
    label: str
    kind: Kind
    required: bool
    help: str
    choices: tuple[tuple[str, str], ...]
    value: str
    error: str
    shown_when: str
    """``field=value|value``: another field's values without which this one means nothing."""

    @property
    def id(self) -> str:
        return "f-" + self.name.replace(".", "-")


@frozen
class _Spec:
    name: str
    schema: Schema
    required: bool
    nullable: bool
    shown_when: str = ""


def draw(
    schema: Schema,
    *,
    values: Mapping[str, object] | None = None,
    typed: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    choices: Choices | None = None,
    leave_out: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> list[FormField]:
    """The schema's fields. `typed` (a form that came back) wins over `values`."""
    errors, choices, labels = errors or {}, choices or {}, labels or {}
    drawn = []
    for spec in _specs(schema):
        if spec.name in leave_out:
            continue
        kind, given = _kind(spec, choices), choices.get(spec.name) or _options(spec.schema)
        if kind == "choice" and not spec.required:
            given = [("", "—"), *given]
        if typed is None:
            value = _shown(kind, _value_of(values or {}, spec))
        else:
            value = typed.get(spec.name, "")
        drawn.append(
            FormField(
                name=spec.name,
                label=labels.get(spec.name, _label(spec)),
                kind=kind,
                required=spec.required and kind != "check",
                help=_help(spec.schema),
                choices=tuple(given),
                value=value,
                error=_error(errors, spec.name),
                shown_when=spec.shown_when,
            )
        )
    return drawn


def read(
    schema: Schema,
    typed: Mapping[str, str],
    *,
    before: Mapping[str, object] | None = None,
    leave_out: Sequence[str] = (),
) -> dict[str, Any]:
    """The body that a form says. With `before`, only what differs from it, for a PATCH."""
    body: dict[str, Any] = {}
    for spec in _specs(schema):
        if spec.name in leave_out or not _applies(spec, typed):
            continue
        kind = _kind(spec, {})
        text = typed.get(spec.name, "")
        if kind == "check":
            value: Any = text == "on"
        elif text == "" and kind not in ("list",):
            if before is None or not spec.nullable:
                continue
            value = None
        else:
            value = _parsed(kind, text)
        if kind == "list" and not value and before is None:
            continue
        if before is not None and value == before.get(spec.name):
            continue
        _put(body, spec.name, value)
    return body


def names(schema: Schema) -> list[str]:
    """The fields' names."""
    return [spec.name for spec in _specs(schema)]


def other_faults(errors: Mapping[str, str], fields: Sequence[FormField]) -> list[str]:
    """Faults of what the form does not show."""
    at_fields = shown(errors, fields)
    return [f"{name}: {message}" for name, message in errors.items() if name not in at_fields]


def shown(errors: Iterable[str], fields: Sequence[FormField]) -> frozenset[str]:
    """The faults, by name, that stand at one of the fields or below it."""
    names = {field.name for field in fields}
    return frozenset(
        name for name in errors if any(name == n or name.startswith(n + ".") for n in names)
    )


def _specs(schema: Schema) -> Iterator[_Spec]:
    definitions = schema.get("$defs", {})
    required = set(schema.get("required", ()))
    for name, raw in schema.get("properties", {}).items():
        inner, nullable = _resolved(raw, definitions)
        if "oneOf" in inner and "discriminator" in inner:
            yield from _variants(name, inner, definitions)
        else:
            yield _Spec(name, inner, name in required, nullable)


def _variants(name: str, schema: Schema, definitions: Schema) -> Iterator[_Spec]:
    """A union by `type`: its names as one choice, then every variant's own fields."""
    tag = schema["discriminator"]["propertyName"]
    tags = list(schema["discriminator"]["mapping"])
    default = schema.get("default", {}).get(tag, tags[0])
    spec = {"enum": tags, "default": default, "title": name}
    yield _Spec(f"{name}.{tag}", spec, True, False)
    found: dict[str, _Spec] = {}
    for value, reference in schema["discriminator"]["mapping"].items():
        variant = definitions[reference.rpartition("/")[2]]
        for inner, raw in variant["properties"].items():
            if inner == tag:
                continue
            resolved, nullable = _resolved(raw, definitions)
            # Several variants may have it: one field then, shown for each of them.
            known = found.get(inner)
            shown = f"{known.shown_when}|{value}" if known else f"{name}.{tag}={value}"
            found[inner] = _Spec(f"{name}.{inner}", resolved, False, nullable, shown)
    yield from found.values()


def _resolved(schema: Schema, definitions: Schema) -> tuple[dict[str, Any], bool]:
    """The schema behind references and ``| null``, and whether null is a value of it."""
    outer = dict(schema)
    nullable = False
    options = outer.pop("anyOf", None)
    if options is not None:
        nullable = any(option.get("type") == "null" for option in options)
        others = [option for option in options if option.get("type") != "null"]
        if len(others) == 1:
            outer = {**others[0], **outer}
        else:
            outer["anyOf"] = others
    if "$ref" in outer:
        target = definitions.get(outer.pop("$ref").rpartition("/")[2], {})
        outer = {**target, **outer}
    if "$ref" in outer.get("items", {}):
        outer["items"] = _resolved(outer["items"], definitions)[0]
    return outer, nullable


def _kind(spec: _Spec, choices: Choices) -> Kind:
    schema, last = spec.schema, spec.name.rpartition(".")[2]
    if spec.name in choices or "enum" in schema or "const" in schema:
        return "choice"
    match schema.get("type"):
        case "boolean":
            return "check"
        case "integer" | "number":
            return "number"
        case "string":
            if schema.get("writeOnly"):
                return "secret"
            if schema.get("format") == "date-time":
                return "time"
            return "long" if last in _LONG else "text"
        case "array" if schema.get("items", {}).get("type") == "string":
            return "list"
        case None if {one.get("type") for one in schema.get("anyOf", ())} == {"integer", "string"}:
            return "amount"
        case _:
            return "json"


def _options(schema: Schema) -> list[tuple[str, str]]:
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [(str(value), str(value)) for value in values]


def _value_of(values: Mapping[str, object], spec: _Spec) -> object:
    if spec.name in values:
        return values[spec.name]
    return spec.schema.get("default")


def _shown(kind: Kind, value: object) -> str:
    if value is None:
        return ""
    if kind == "check":
        return "on" if value else ""
    if kind == "list" and isinstance(value, list):
        return "\n".join(map(str, value))
    if kind == "json" or isinstance(value, dict | list):
        return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    return str(value)


def _parsed(kind: Kind, text: str) -> Any:
    if kind == "number":
        return _number(text)
    if kind == "amount":
        return _amount(text.strip('"'))
    if kind == "list":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if kind == "time":
        return text if text.endswith("Z") or "+" in text[10:] else f"{text}Z"
    if kind == "json":
        try:
            jiter.from_json(text.encode(), allow_inf_nan=False, catch_duplicate_keys=True)
        except ValueError:
            return text
        # As it was written: a float's digits are what policy and tool must see.
        return orjson.Fragment(text)
    return text


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _amount(text: str) -> int | str:
    """A whole number, or a decimal that stays as it was written."""
    return int(text) if text.isascii() and text.isdecimal() else text


def _applies(spec: _Spec, typed: Mapping[str, str]) -> bool:
    if not spec.shown_when:
        return True
    other, _, value = spec.shown_when.partition("=")
    return typed.get(other) in value.split("|")


def _put(body: dict[str, Any], name: str, value: object) -> None:
    *outer, last = name.split(".")
    for part in outer:
        body = body.setdefault(part, {})
    body[last] = value


def _label(spec: _Spec) -> str:
    words = spec.name.replace(".", " ").replace("_id", "").replace("_", " ")
    words = words.replace("mcp ", "").replace("url", "URL").removesuffix(" type")
    return words[:1].upper() + words[1:]


def _help(schema: Schema) -> str:
    said = str(schema.get("description", "")).replace("`", "")
    some = schema.get("items", {}).get("enum")
    return f"{said} Of {', '.join(map(str, some))}.".strip() if some else said


def _error(errors: Mapping[str, str], name: str) -> str:
    """Its own fault, or the first of those inside it (``server_ids.0``, ``auth.bearer.token``)."""
    if name in errors:
        return errors[name]
    outer, _, last = name.rpartition(".")
    for path, message in errors.items():
        if path.startswith(name + "."):
            return message
        if outer and path.startswith(outer + ".") and path.endswith("." + last):
            return message
    return ""
