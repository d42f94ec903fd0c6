"""`from sdk.client import CumulusClient`"""

from cumulus.sdk.client import CumulusClient

__all__ = ["CumulusClient"]
