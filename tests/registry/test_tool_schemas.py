"""Schemas of tools' arguments: `opa check` finds what is misspelt, and nothing a server sends
makes it fetch or fail."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway import assets
from gateway.policy.argument_schemas import MAX_DEPTH, OPEN, arguments_schema
from gateway.registry.tool_schemas import write_tool_schemas
from tests.api.world import World, a_world
from tests.policy.world import the_opa

pytestmark = pytest.mark.anyio

POLICY = """# METADATA
# schemas:
#   - input: schema.input
#   - input.arguments: schema.tools.{tool}
package policies.tool.query.limit

import rego.v2

findings contains {{"action": "DENY", "policy_id": "limit", "reason": "many"}} if {{
	{condition}
}}
"""
QUERY = {
    "type": "object",
    "properties": {
        "limit": {"type": "integer", "minimum": 1},
        "where": {"$ref": "#/$defs/Where"},
        "fields": {"type": "array", "items": {"type": "object", "properties": {"name": {}}}},
        "order": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "free": {"type": "object"},
    },
    "$defs": {"Where": {"type": "object", "properties": {"field": {"type": "string"}}}},
}


def _tool(name: str, schema: Any) -> dict[str, Any]:
    return {"name": name, "description": "Read records", "inputSchema": schema}


async def _scanned(world: World, secret: str | None = None) -> None:
    async with world.client(secret or list(world.keys.values())[0]) as client:
        body = {"name": "sales", "server_url": "https://sales.example.com/mcp"}
        server = (await client.post("mcp/servers", json=body)).json()["id"]
        assert (await client.post(f"mcp/servers/{server}/scan")).status_code == 200


def _check(folder: Path, tool: str, condition: str) -> str:
    """What `opa check` says of a policy with the condition; nothing when all is well."""
    policy = folder / "limit.rego"
    policy.write_text(POLICY.format(tool=tool, condition=condition))
    done = subprocess.run(
        [the_opa(), "check", "--strict", "--schema", folder / "schemas", policy],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(assets.asset("rego") / "schemas", tmp_path / "checked" / "schemas")
    return tmp_path / "checked"


async def test_a_misspelt_argument_is_found_by_opa_check(tmp_path: Path, folder: Path) -> None:
    with a_world(tmp_path / "data") as world:
        world.upstream.tools = [_tool("query", QUERY), _tool("query-all.v2", QUERY)]
        await _scanned(world)
        written = world.state.registry.read_now(
            lambda connection: write_tool_schemas(connection, folder / "schemas")
        )
    assert {path.name for path in written.files} == {"query.json", "query-all.v2.json"}
    assert written.skipped == {}
    for tool in ("sales.query", 'sales["query-all.v2"]'):
        for right in (
            "input.arguments.limit > 10",
            'input.arguments.where.field == "x"',
            'input.arguments.fields[_].name == "x"',
            'startswith(input.arguments.order, "x")',
            'input.arguments.free.anything == "x"',
            'input.tool.risk == "HIGH"',
        ):
            assert _check(folder, tool, right) == "", right
        for wrong, name in (
            ("input.arguments.limt > 10", "limt"),
            ('input.arguments.where.feild == "x"', "feild"),
            ('input.arguments.fields[_].nmae == "x"', "nmae"),
            ('input.tool.rsik == "HIGH"', "rsik"),
            ('startswith(input.arguments.limit, "x")', "startswith"),
        ):
            assert name in _check(folder, tool, wrong), wrong


async def test_files_stay_in_the_folder_and_stale_ones_go(tmp_path: Path, folder: Path) -> None:
    stale = folder / "schemas" / "tools" / "sales" / "gone.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    with a_world(tmp_path / "data") as world:
        names = ["../../../out", "a/b", ".hidden", "query", "x" * 129]
        world.upstream.tools = [_tool(name, QUERY) for name in names]
        await _scanned(world)
        world.upstream.tools = [_tool("query", {"type": "object", "properties": {"top": {}}})]
        await _scanned(world, world.foreign)
        written = world.state.registry.read_now(
            lambda connection: write_tool_schemas(connection, folder / "schemas")
        )
    assert [path.relative_to(folder).as_posix() for path in written.files] == [
        "schemas/tools/sales/query.json"
    ]
    # Two projects have another `query` under the same slug: neither may refuse the other's names.
    assert orjson.loads(written.files[0].read_bytes()) == OPEN
    assert written.skipped.keys() == {f"sales/{name}" for name in names}
    assert not stale.exists()
    assert not (tmp_path / "out.json").exists()


LOOP: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#"}}}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        True,
        {},
        [],
        {"type": "string"},
        {"type": ["object", "null"], "properties": {"a": {}}},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"allOf": [{"properties": {"a": {}}}], "properties": {"b": {}}},
        {"anyOf": [{"properties": {"a": {}}}], "properties": {"b": {}}},
        {"properties": 5},
    ],
)
def test_what_is_not_understood_may_be_anything(schema: Any) -> None:
    assert arguments_schema(schema) == OPEN


@pytest.mark.parametrize(
    "inner",
    [
        {"$ref": "https://example.com/schema.json"},
        {"minimum": "x"},
        {"type": "money"},
        {"type": []},
        {"type": 5},
        {"pattern": "("},
        {"patternProperties": {"[": {}}, "type": "object"},
        {"items": "x", "type": "array"},
        {"anyOf": []},
        {"anyOf": [{"type": "string"}, {"$ref": "https://example.com/"}]},
        {"enum": "x"},
        {"$ref": "#/properties/a"},
        {"$ref": "#"},
    ],
)
def test_nothing_that_a_server_sends_fails_the_check_of_a_policy(
    tmp_path: Path, folder: Path, inner: Any
) -> None:
    schema = arguments_schema({"type": "object", "properties": {"a": inner, "b": {}}})
    file = folder / "schemas" / "tools" / "sales" / "query.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(orjson.dumps(schema))
    assert _check(folder, "sales.query", "input.arguments.b == 1") == ""
    assert "bb" in _check(folder, "sales.query", "input.arguments.bb == 1")


def test_a_schema_that_holds_itself_ends() -> None:
    text = orjson.dumps(arguments_schema(LOOP)).decode()
    assert text.count("next") < MAX_DEPTH
    wide: dict[str, Any] = {"$ref": "#"}
    many = {"type": "object", "properties": {f"p{n}": wide for n in range(50)}}
    assert len(orjson.dumps(arguments_schema(many))) < 1_000_000
