from __future__ import annotations

import pytest

from cumulus.errors import UsageError
from cumulus.nodes.address import WorkerHost


@pytest.mark.parametrize(
    ("text", "address", "known_as"),
    [
        ("root@gpu-3", WorkerHost("gpu-3", "root"), "gpu-3"),
        ("me@gpu-3.lab:2222", WorkerHost("gpu-3.lab", "me", 2222), "[gpu-3.lab]:2222"),
        ("me@10.0.0.3", WorkerHost("10.0.0.3", "me"), "10.0.0.3"),
        ("me@[fe80::1]:22", WorkerHost("fe80::1", "me"), "fe80::1"),
        ("me@[fe80::1]:2222", WorkerHost("fe80::1", "me", 2222), "[fe80::1]:2222"),
    ],
)
def test_addresses(text: str, address: WorkerHost, known_as: str) -> None:
    assert WorkerHost.parse(text) == address
    assert address.known_as == known_as
    assert WorkerHost.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["gpu-3", "@gpu-3", "me@", "me@-oProxyCommand=x", "-l@host", "me@h:0", "me@h:99999", ""]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        WorkerHost.parse(text)
