"""What the gateway is to an authorization server."""

from dataclasses import field
from typing import Literal

from gateway.frozen import frozen


@frozen
class OAuthClient:
    """How the gateway gets a server's access tokens (RFC 6749)."""

    grant: Literal["client_credentials", "authorization_code"]
    token_url: str
    client_id: str = field(repr=False)
    client_secret: str | None = field(repr=False)
    client_auth: Literal["basic", "post"]
    scope: str
    resource: str
    """For whom the tokens are (RFC 8707); empty to leave that out."""
    authorization_url: str = ""
    issuer: str | None = None
