"""What the daemon tells Prometheus, one module for each source: the controllers, the objects, the API's requests.

Names follow controller-runtime and kube-apiserver where they have one; ours begin with `cumulus_`. Base units: seconds,
bytes, ratios (prometheus.io/docs/practices/naming).
"""
