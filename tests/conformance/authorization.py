"""Who fetches the token that a scenario's server asks for: the client itself, or the gateway.

An administrator tells the gateway where the token comes from. In the suite's scenarios that is read
where a client would find it: from the server's metadata.
"""

from typing import Any

import httpx2
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken


class InMemory:
    """The storage that the SDK's provider asks for."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def metadata(mock: str) -> dict[str, Any]:
    """The metadata of the authorization server that a scenario's server names."""
    origin = mock.removesuffix("/mcp")
    async with httpx2.AsyncClient(trust_env=False) as http:
        named = await http.get(f"{origin}/.well-known/oauth-protected-resource/mcp")
        issuer = named.raise_for_status().json()["authorization_servers"][0]
        found = await http.get(f"{issuer}/.well-known/oauth-authorization-server")
        told: dict[str, Any] = found.raise_for_status().json()
        return told


def by_the_client(mock: str, context: dict[str, Any]) -> httpx2.Auth | None:
    """For a client without a gateway, from what the suite tells it (`client_id`, …)."""
    if "client_secret" not in context:
        return None
    # The suite tells nobody the issuer beforehand.
    return ClientCredentialsOAuthProvider(
        mock,
        InMemory(),
        context["client_id"],
        context["client_secret"],
        issuer=context.get("issuer"),
    )


async def by_the_gateway(mock: str, context: dict[str, Any]) -> dict[str, str]:
    """What `POST /mcp/servers` takes as `auth`."""
    if "client_secret" not in context:
        return {"type": "none"}
    told = await metadata(mock)
    return {
        "type": "oauth_client_credentials",
        "token_url": told["token_endpoint"].replace("localhost", "127.0.0.1"),
        "client_id": context["client_id"],
        "client_secret": context["client_secret"],
    }
