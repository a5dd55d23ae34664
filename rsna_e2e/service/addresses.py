"""Network addresses as the service counts and trusts them."""

import ipaddress
from collections.abc import Iterable

from rsna_e2e.core.errors import UsageError

_HOST_BITS_V6 = 64  # a customer of IPv6 has a /64 at least, so one of its addresses says little (RFC 6177)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parse(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def plain(text: str) -> str:
    """Return an address in its shortest form, an IPv4 address within IPv6 as IPv4; empty if it is none."""
    address = _parse(text)
    return "" if address is None else str(address)


def counted_as(text: str) -> str:
    """Return what the limits of an address count by: an IPv4 address itself, of IPv6 its /64; empty if it is none."""
    address = _parse(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> _HOST_BITS_V6 << _HOST_BITS_V6, _HOST_BITS_V6)))
    return "" if address is None else str(address)


class Networks:
    """A set of addresses, given as such or as networks: `127.0.0.1`, `10.2.0.0/16`, `::1`."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises UsageError for what is no address or network."""
        try:
            self._networks = tuple(ipaddress.ip_network(text) for text in texts)
        except ValueError as error:
            raise UsageError(f"{error}. Give an address such as 10.2.0.7, or a network such as 10.2.0.0/16") from None

    def __contains__(self, text: str) -> bool:
        address = _parse(text)
        return address is not None and any(address in network for network in self._networks)
