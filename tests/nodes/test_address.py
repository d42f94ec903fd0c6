from __future__ import annotations

import pytest

from cumulus.errors import UsageError
from cumulus.nodes.address import Address


@pytest.mark.parametrize(
    ("text", "address", "known_as"),
    [
        ("root@gpu-3", Address("gpu-3", "root"), "gpu-3"),
        ("me@gpu-3.lab:2222", Address("gpu-3.lab", "me", 2222), "[gpu-3.lab]:2222"),
        ("me@10.0.0.3", Address("10.0.0.3", "me"), "10.0.0.3"),
        ("me@[fe80::1]:22", Address("fe80::1", "me"), "fe80::1"),
        ("me@[fe80::1]:2222", Address("fe80::1", "me", 2222), "[fe80::1]:2222"),
    ],
)
def test_addresses(text: str, address: Address, known_as: str) -> None:
    assert Address.parse(text) == address
    assert address.known_as == known_as
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["gpu-3", "@gpu-3", "me@", "me@-oProxyCommand=x", "-l@host", "me@h:0", "me@h:99999", ""]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)
