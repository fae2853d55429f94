"""Finds what is not code: Rego, connector templates, OPA's configuration.

In a checkout these lie beside the package; a wheel carries them inside it, in `_assets`.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


class AssetMissing(Exception):
    """The installation lacks a file it was built with; the message says which."""


def asset(name: str) -> Path:
    """Return the path of ``rego``, ``connector_templates``, ``opa-config.yaml``, …

    Raises `AssetMissing` when neither the wheel nor a checkout holds it.
    """
    for folder in (_PACKAGE / "_assets", checkout()):
        if folder is not None and (folder / name).exists():
            return folder / name
    raise AssetMissing(f"{name} is not part of this installation; reinstall policy-gateway")


def checkout() -> Path | None:
    """The project's folder when the package runs from a checkout of it, else None."""
    folder = _PACKAGE.parent
    return folder if (folder / "pyproject.toml").is_file() else None
