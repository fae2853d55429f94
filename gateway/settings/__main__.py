"""``python -m gateway.settings`` writes ``docs/settings.md``."""

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.settings import PREFIX, Settings
from gateway.settings.anchors import own_first


def reference() -> str:
    """The text of ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Read from the environment when a command starts. Every fault is reported at once, and an",
        "unknown `GATEWAY_` variable is one. This page is written by `python -m gateway.settings`.",
        "",
        "| variable | default | what it sets | who changes it |",
        "|---|---|---|---|",
    ]
    for name, field in own_first(Settings.model_fields, Settings.__annotations__).items():
        extra = field.json_schema_extra
        changed_by = extra["changed_by"] if isinstance(extra, dict) else ""
        lines.append(
            f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description} | {changed_by} |"
        )
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined or field.default in (None, ()):
        return "–"
    return f"`{str(field.default).lower() if field.default is False else field.default}`"


if __name__ == "__main__":
    print(reference(), end="")
