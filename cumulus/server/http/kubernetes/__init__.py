"""What kubectl and Kubernetes' client libraries ask for: `/api`, `/apis`, `/openapi`, `/version`."""
