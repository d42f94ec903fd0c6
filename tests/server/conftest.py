"""The state directory of the command line's tests."""

from tests.cli.conftest import home

__all__ = ["home"]
