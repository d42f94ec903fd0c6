"""Names under which programs own fields of objects, as in Kubernetes' managedFields. Standard library only."""

CUMULUS = "cumulus"
"""The command line, and who calls the service without another name."""
KUBECTL = "kubectl"
"""`kubectl apply --server-side`."""
ANCIENT = "ancient-changes"
"""The oldest of many managers, which count as one."""
