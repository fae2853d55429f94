"""What an anchoring transaction may cost, and when the next one may be sent. Pure; amounts in wei.

The cap is an amount a day, never a gas price: Flare's base fee may lie anywhere between 1 wei and
thousands of gwei, and moves by a factor of twenty when the network decides it.
"""

from gateway.frozen import frozen

WEI_PER_FLR = 10**18
GWEI = 10**9
ANCHOR_GAS = 36_103
"""Gas of one anchor by the contract, measured; the first of a log takes 70,303."""
HEADROOM = 4
"""A transaction pays up to this many times the base fee at signing: it doubles once a minute."""


@frozen
class Fees:
    """The two fields of a transaction (EIP-1559)."""

    max_fee: int
    tip: int


@frozen
class Market:
    """What the network asks now."""

    base_fee: int
    tip: int
    """What the node suggests; 0 is possible."""


@frozen
class Purse:
    """The day's money."""

    cap: int
    spent: int
    """By receipts: what was paid, not what could have been."""
    seconds_left: float
    """Of the UTC day."""

    @property
    def left(self) -> int:
        return max(0, self.cap - self.spent)


def gas_limit(estimate: int) -> int:
    """Estimate and a fifth: upcoming rules charge for a limit that is far too high."""
    return estimate * 6 // 5


def first_fees(market: Market, gas: int, left: int) -> Fees | None:
    """Fees for a new transaction whose worst case fits into what is left; None: nothing fits."""
    tip = max(1, market.tip)
    most = left // gas
    if most < market.base_fee + tip:
        return None
    return Fees(min(HEADROOM * market.base_fee + tip, most), tip)


def bumped(old: Fees, market: Market, gas: int, left: int) -> Fees | None:
    """Fees that replace a stuck transaction; None when they would not fit into what is left.

    A Flare node wants more than a tenth on top of *both* fields, and an eighth is that; a tip of
    1 wei must still become 2.
    """
    fresh_tip = max(1, market.tip)
    tip = max(_eighth_more(old.tip), fresh_tip)
    max_fee = max(_eighth_more(old.max_fee), HEADROOM * market.base_fee + fresh_tip, tip)
    return Fees(max_fee, tip) if max_fee * gas <= left else None


def _eighth_more(amount: int) -> int:
    return max(amount + 1, -(-amount * 9 // 8))


def needed(market: Market, gas: int, seconds: float) -> int:
    """The daily cap at which one anchor every `seconds` seconds can be paid for."""
    return round(86_400 / seconds * gas * (market.base_fee + max(1, market.tip)))


def spacing(purse: Purse, market: Market, gas: int, least: float) -> float:
    """Seconds between anchors with which the money lasts the day; infinite when none is left."""
    cost = gas * (market.base_fee + max(1, market.tip))
    affordable = purse.left // cost
    if affordable == 0:
        return float("inf")
    return max(least, purse.seconds_left / affordable)
