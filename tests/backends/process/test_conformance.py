"""The process backend, with real processes, keeps the contract."""

from __future__ import annotations

from tests.backends.conformance import BackendConformance


class TestProcessBackend(BackendConformance):
    """The fixture `bed` is in conftest."""
