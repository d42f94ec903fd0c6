"""Whether something can be read, also of descriptors that select(2) does not take."""

from __future__ import annotations

import fcntl
import os
import resource

import pytest

from cumulus.lib.readable import is_readable

BEYOND_SELECT = 1500


def test_what_is_there_and_what_is_not() -> None:
    source, sink = os.pipe()
    assert not is_readable(source, 0)
    os.write(sink, b"x")
    assert is_readable(source, 0)
    assert is_readable(source)
    os.read(source, 1)
    assert not is_readable(source, 0.01)
    os.close(sink)
    # The end is there to be read, too.
    assert is_readable(source, 0)
    os.close(source)


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= BEYOND_SELECT, reason="no descriptor of that number can be had"
)
def test_a_descriptor_of_a_process_with_many() -> None:
    source, sink = os.pipe()
    high = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, BEYOND_SELECT)
    os.write(sink, b"x")
    assert is_readable(high, 0)
    for descriptor in (source, sink, high):
        os.close(descriptor)
