"""Connector templates as their `template.yaml` tells them: policies, parameters, tools covered.

The Rego beside it decides; this file is what people and the API are told, and what a server's
parameters are held to. Which tools a template covers is settled here and nowhere else.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from publicsuffixlist import PublicSuffixList
from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as Malformed

from gateway.frozen import frozen
from gateway.values import Action, Json

FILE = "template.yaml"

_log = structlog.get_logger(__name__)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")
_SPACES = re.compile(r"[\t\n\f\r ]+")
_PREFIX = re.compile(r"^.*(?:__|[./:])")
_SUFFIX = "_work_iq"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""As `yaml.safe_load`, but in C where PyYAML has it: three times as fast."""
_Glob = Annotated[str, Field(pattern=r"^[^\x00-\x1f\[\]{}]+$", max_length=128)]
_Text = Annotated[str, Field(min_length=1, max_length=2000)]


class TemplateFault(Exception):
    """A template cannot be used; the message names the file and every field with a fault."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TemplatePolicy(_Strict):
    """One policy of a template."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    """As its findings name it; overrides are for it."""
    package: str
    title: _Text
    action: Action
    """What it says when it finds something and no override says otherwise."""
    covers: _Text
    tools: Annotated[tuple[_Glob, ...], Field(min_length=1)]
    """Globs on the forms of a tool's name, case ignored; see `covers_tool`."""

    def covers_tool(self, name: str) -> bool:
        """Whether a glob matches the name, or what is left of it without prefix and suffix."""
        spelled = forms(name)
        return any(fnmatchcase(form, glob.lower()) for glob in self.tools for form in spelled)


class _Parameters(_Strict):
    type: Literal["object"]
    additionalProperties: Literal[False]
    properties: Mapping[str, dict[str, Any]]


class _File(_Strict):
    title: _Text
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    description: _Text
    parameters: _Parameters
    policies: Annotated[tuple[TemplatePolicy, ...], Field(min_length=1)]


@frozen
class Template:
    """A connector template of one version."""

    name: str
    title: str
    version: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema (2020-12) of an object; each property has a default."""
    policies: tuple[TemplatePolicy, ...]

    @property
    def defaults(self) -> dict[str, Json]:
        return {name: spec["default"] for name, spec in self.parameters["properties"].items()}

    def policy(self, policy_id: str) -> TemplatePolicy | None:
        return next((policy for policy in self.policies if policy.id == policy_id), None)

    def covering(self, tool_name: str) -> list[str]:
        """Ids of the policies that speak of tools with such a name."""
        return [policy.id for policy in self.policies if policy.covers_tool(tool_name)]

    def faults(self, params: Mapping[str, Json]) -> dict[str, str]:
        """What is wrong with a server's parameters, by dotted field; nothing when all is well."""
        found: dict[str, str] = {}
        for error in Draft202012Validator(self.parameters).iter_errors(params):
            found.setdefault(_dotted("params", error.absolute_path), _said(error))
        for path, text in _texts(params, ("params",)):
            wrong = _text_fault(path, text)
            if wrong:
                found[".".join(path)] = wrong
        return found


def forms(name: str) -> frozenset[str]:
    """The spellings of a tool's name that globs are tried on, as `data.lib.tool_names.forms` does.

    All of it and the part after the last ``__``, ``.``, ``/`` or ``:``, each also without
    ``_work_iq``, in lower case, a run of spaces as one.
    """
    whole = _SPACES.sub(" ", name.lower()).strip()
    tail = _PREFIX.sub("", whole).strip()
    spelled = {whole, tail, whole.removesuffix(_SUFFIX), tail.removesuffix(_SUFFIX)}
    return frozenset(spelled - {""})


def read_template(folder: Path) -> Template:
    """Read and validate ``template.yaml``. Raises `TemplateFault` with all that is wrong."""
    path = folder / FILE
    try:
        document = yaml.load(path.read_text(), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TemplateFault(f"{path}: {error}") from None
    try:
        parsed = _File.model_validate(document)
    except Malformed as error:
        lines = [
            f"{_dotted('', part['loc'])}: {part['msg']}" for part in error.errors(include_url=False)
        ]
        raise TemplateFault(f"{path}: " + "; ".join(lines)) from None
    template = Template(
        name=folder.name,
        title=parsed.title,
        version=parsed.version,
        description=parsed.description,
        parameters=document["parameters"],
        policies=parsed.policies,
    )
    wrong = list(_inconsistencies(template, folder))
    if wrong:
        raise TemplateFault(f"{path}: " + "; ".join(wrong))
    return template


def _inconsistencies(template: Template, folder: Path) -> Iterator[str]:
    """What each member alone does not show."""
    if not _NAME.fullmatch(template.name):
        yield f"the folder's name {template.name} is no template's"
    seen: set[str] = set()
    for number, policy in enumerate(template.policies):
        if policy.id in seen:
            yield f"policies.{number}.id: {policy.id} is there twice"
        seen.add(policy.id)
        root, _, package = policy.package.rpartition(".")
        if root != f"connectors.{template.name}":
            yield f"policies.{number}.package: must be connectors.{template.name}.<policy>"
        elif not (folder / package).is_dir():
            yield f"policies.{number}.package: there is no folder {package}"
    try:
        Draft202012Validator.check_schema(template.parameters)
    except SchemaError as error:
        yield f"{_dotted('parameters', error.absolute_path)}: {error.message}"
        return
    yield from _wrong_defaults(template)


def _wrong_defaults(template: Template) -> Iterator[str]:
    missing = [n for n, spec in template.parameters["properties"].items() if "default" not in spec]
    yield from (f"parameters.properties.{name}.default: is missing" for name in missing)
    if not missing:
        for name, wrong in template.faults(template.defaults).items():
            yield f"the default of {name}: {wrong}"


def _said(error: ValidationError) -> str:
    """What is wrong, without repeating a schema that is longer than a sentence."""
    if error.validator == "not":
        return "is not allowed: the template's schema excludes it"
    return str(error.message)[:300]


def _dotted(begin: str, path: Any) -> str:
    return ".".join([*([begin] if begin else []), *map(str, path)]) or "the file"


def _texts(value: Json, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield from _texts(member, (*path, str(name)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, (*path, str(number)))


def _text_fault(path: tuple[str, ...], text: str) -> str | None:
    # Python's $ also matches before a line's end, so a schema's pattern lets one through.
    if _CONTROL.search(text):
        return "must not hold control characters"
    if len(path) > 1 and path[1].endswith("_domains"):
        return _domain_fault(text)
    return None


def _domain_fault(name: str) -> str | None:
    """A domain that strangers share would make them insiders, whatever the template's schema."""
    if not _DOMAIN.fullmatch(name):
        return "must be a domain in lower case, such as example.com, without a wildcard"
    if _public_suffixes().privatesuffix(name) is None:
        return f"{name} is a public suffix: it would take strangers for your own people"
    return None


@cache
def _public_suffixes() -> PublicSuffixList:
    """The list of publicsuffix.org, as the package carries it; nothing is fetched."""
    return PublicSuffixList()


@dataclass(slots=True)
class Catalogue:
    """The templates in a folder, read again when a file of theirs has changed.

    One with a fault is not offered: nothing is made from it and nothing of it is loosened.
    """

    folder: Path | None
    """None for an installation without templates."""
    _stamp: tuple[tuple[str, int, int], ...] | None = field(default=None, repr=False)
    _found: Mapping[str, Template] = field(default_factory=dict, repr=False)
    _faults: Mapping[str, str] = field(default_factory=dict, repr=False)

    def templates(self) -> Mapping[str, Template]:
        """By name, in order; blocks for a moment when a file has changed."""
        self._refresh()
        return self._found

    def faults(self) -> Mapping[str, str]:
        """What is wrong with the templates that are not offered, by name."""
        self._refresh()
        return self._faults

    def get(self, name: str) -> Template | None:
        return self.templates().get(name)

    def _refresh(self) -> None:
        try:
            stamp = self._look()
        except OSError:
            # Out of descriptors, say: what was read holds, and must not take a commit along.
            if self._stamp is None:
                raise
            return
        if stamp == self._stamp:
            return
        found: dict[str, Template] = {}
        faults: dict[str, str] = {}
        for name, _, _ in stamp:
            assert self.folder is not None
            try:
                found[name] = read_template(self.folder / name)
            except TemplateFault as fault:
                _log.error("a connector template is not offered", why=str(fault))
                faults[name] = str(fault)
        self._found, self._faults, self._stamp = found, faults, stamp

    def _look(self) -> tuple[tuple[str, int, int], ...]:
        """Each template's folder, with time and size of its file, zeros without one."""
        if self.folder is None or not self.folder.is_dir():
            return ()
        names = sorted(
            folder.name
            for folder in self.folder.iterdir()
            if folder.is_dir() and not folder.name.startswith((".", "_"))
        )
        return tuple((name, *_time_and_size(self.folder / name / FILE)) for name in names)


def _time_and_size(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
