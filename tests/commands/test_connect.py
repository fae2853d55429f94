"""`gateway connect`: configuration that clients take, and no key in it."""

import json

import pytest

from tests.test_cli import gateway

URL = "https://gateway.example.com/api/v1/mcp/proxy/srv_1"
KEY = "POLICY_GATEWAY_AGENT_KEY"


@pytest.mark.parametrize(
    ("client", "document"),
    [
        (
            "claude-code",
            {
                "mcpServers": {
                    "crm": {
                        "type": "http",
                        "url": URL,
                        "headers": {"Authorization": f"Bearer ${{{KEY}}}"},
                    }
                }
            },
        ),
        (
            "cursor",
            {
                "mcpServers": {
                    "crm": {
                        "url": URL,
                        "headers": {"Authorization": f"Bearer ${{env:{KEY}}}"},
                    }
                }
            },
        ),
        (
            "windsurf",
            {
                "mcpServers": {
                    "crm": {
                        "serverUrl": URL,
                        "headers": {"Authorization": f"Bearer ${{env:{KEY}}}"},
                    }
                }
            },
        ),
        (
            "vscode",
            {
                "inputs": [
                    {
                        "type": "promptString",
                        "id": "policy-gateway-agent-key",
                        "description": "The agent's key for the policy gateway",
                        "password": True,
                    }
                ],
                "servers": {
                    "crm": {
                        "type": "http",
                        "url": URL,
                        "headers": {"Authorization": "Bearer ${input:policy-gateway-agent-key}"},
                    }
                },
            },
        ),
    ],
)
def test_each_client_gets_its_own_form(client: str, document: object) -> None:
    result = gateway("connect", client, f"crm={URL}")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == document
    assert "Put this into" in result.stderr


def test_a_server_without_a_name_is_called_by_its_id() -> None:
    shown = json.loads(gateway("connect", "cursor", URL, f"b={URL}2").stdout)
    assert list(shown["mcpServers"]) == ["srv_1", "b"]


@pytest.mark.parametrize(
    "words",
    [
        ["emacs", URL],
        ["cursor", "https://crm.example.com/mcp"],
        ["cursor", "https://gateway.example.com/api/v1/mcp/proxy/"],
        ["cursor", f"a b={URL}"],
        ["cursor", f"a={URL}", f"a={URL}2"],
        ["cursor"],
    ],
)
def test_what_is_no_endpoint_of_the_proxy_is_wrong_usage(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLICY_GATEWAY_KEY", raising=False)
    assert gateway("connect", *words).exit_code == 2
