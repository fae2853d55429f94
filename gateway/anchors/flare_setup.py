"""Opens the wallet and the nodes. Importing this imports web3."""

from pathlib import Path

import anyio.to_thread

from gateway.anchors.chain import Node, Wallet
from gateway.anchors.fees import WEI_PER_FLR
from gateway.anchors.flare import Flare, Terms
from gateway.anchors.place import AnchorUnusable, Opened, Place, outgoing
from gateway.settings import Settings
from gateway.trace.log import stored_hashes
from gateway.trace.merkle import roots


def open_wallet(settings: Settings) -> Wallet:
    """The key that pays and signs. Takes a second. Raises `AnchorUnusable`."""
    if settings.flare_key is not None:
        return Wallet(bytes.fromhex(settings.flare_key.get_secret_value().removeprefix("0x")))
    if settings.flare_key_file is None or settings.flare_password_file is None:
        raise AnchorUnusable("set GATEWAY_FLARE_KEY_FILE and GATEWAY_FLARE_PASSWORD_FILE")
    keystore, password = _read(settings.flare_key_file), _read(settings.flare_password_file)
    try:
        return Wallet.from_keystore(keystore, password.rstrip("\r\n"))
    except ValueError:
        # Not the library's text: it may quote what it was given.
        raise AnchorUnusable(
            f"{settings.flare_key_file} is no version 3 keystore, or "
            f"{settings.flare_password_file} does not hold its password"
        ) from None


def open_nodes(settings: Settings, contract: str) -> list[Node]:
    urls = [settings.flare_rpc_url, settings.flare_second_rpc_url]
    return [Node(outgoing(settings, url), contract) for url in urls if url is not None]


async def open_flare(place: Place) -> Opened:
    """Raises `AnchorUnusable`. Nothing is asked of the nodes yet."""
    settings = place.settings
    chain_id, contract = settings.flare_chain_id, settings.flare_contract
    if chain_id is None or contract is None:
        raise AnchorUnusable("set GATEWAY_FLARE_CHAIN_ID and GATEWAY_FLARE_CONTRACT")
    wallet = await anyio.to_thread.run_sync(open_wallet, settings)
    # By all that makes it: what another key or contract has anchored is not ours to go on with.
    name = f"flare:{chain_id}:{contract[2:10].lower()}:{wallet.address[2:10].lower()}"
    outbox = place.outbox(name)

    async def root_at(log: int, size: int) -> bytes | None:
        return await outbox.read(lambda c: roots(stored_hashes(c, log))(0, size))

    nodes = open_nodes(settings, contract)
    terms = Terms(
        chain_id,
        nodes[0].contract,
        int(settings.flare_daily_cap * WEI_PER_FLR),
        settings.anchor_urgent_seconds,
    )
    identity = {
        "chain_id": chain_id,
        "contract": nodes[0].contract,
        "writer": wallet.address,
        "successor": settings.flare_successor,
    }
    return Opened(name, identity, Flare(nodes, wallet, terms, outbox, root_at), outbox)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AnchorUnusable(f"cannot read {path}: {error}") from None
