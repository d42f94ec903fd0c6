"""Annotations in which a client keeps what it applied. Standard library only."""

LAST_APPLIED = "cumulus.dev/last-applied-configuration"
"""Of versions of `cumulus apply` from before there were managedFields, which say the same. It goes with the next
change."""

KUBECTL_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Of client-side `kubectl apply`."""
