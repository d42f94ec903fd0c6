"""The name that the first description of Cumulus gave the SDK: `cumulus.sdk` is the one to import."""
