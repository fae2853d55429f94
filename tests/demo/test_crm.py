"""The sample server: its tools do what they say, and it never outlives whoever started it."""

import os
import select
import subprocess
import sys

import pytest
from mcp import Client

from gateway.demo import records
from gateway.demo.crm import server
from gateway.demo.crm_process import CrmProcess
from gateway.demo.prepare import RULES
from tests.end_to_end.demonstration import ends

pytestmark = pytest.mark.anyio


async def test_every_tool_has_a_description_annotations_and_an_output_schema() -> None:
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
    assert len(tools) == 8
    for tool in tools:
        assert tool.description, tool.name
        assert tool.annotations is not None, tool.name
        assert tool.output_schema is not None, tool.name


async def test_rules_name_tools_that_exist() -> None:
    async with Client(server) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
    assert {tool for tool, _, _ in RULES} <= names
    assert {action for _, action, _ in RULES} == {"ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY"}


async def test_a_record_lives_from_create_to_delete() -> None:
    async with Client(server) as client:

        async def call(tool: str, **arguments: object) -> dict[str, object]:
            answer = await client.call_tool(tool, arguments)
            assert answer.structured_content is not None
            return dict(answer.structured_content)

        made = await call("create_record", object_name="Account", fields={"name": "Zeta"})
        changed = await call("update_record", record_id=made["id"], fields={"city": "Bern"})
        assert changed["fields"] == {"name": "Zeta", "city": "Bern"}
        assert (await call("query_records", object_name="Account", contains="zeta"))["total"] == 1
        await call("delete_record", record_id=made["id"])
        assert (await call("query_records", object_name="Account", contains="zeta"))["total"] == 0


async def test_a_record_that_is_not_there_is_a_tools_error_that_says_so() -> None:
    async with Client(server) as client:
        answer = await client.call_tool("delete_record", {"record_id": "ACC-9999"})
    assert answer.is_error
    assert "no record has the id ACC-9999" in str(answer.content)


def test_an_export_holds_every_field() -> None:
    crm = records.Crm()
    crm.create("Contact", {"name": 'Ada "A" Moss', "email": "a@b.example"})
    assert records.as_csv(crm.find("Contact", "")) == (
        'CON-0001,Contact,"name=Ada ""A"" Moss",email=a@b.example\r\n'
    )


def test_the_server_takes_its_old_port_again_and_another_when_that_is_taken() -> None:
    with CrmProcess() as first:
        port = first.port()
        with CrmProcess(port) as second:
            assert second.port() != port
    with CrmProcess(port) as third:
        assert third.port() == port


def test_the_server_ends_when_its_parent_is_killed() -> None:
    program = (
        "from gateway.demo.crm_process import CrmProcess\n"
        "crm = CrmProcess(); crm.port(); print(crm._process.pid, flush=True)\n"
        "import time; time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert select.select([pidfd], [], [], 0)[0] == []
            parent.kill()
            assert ends(pidfd)
        finally:
            os.close(pidfd)
