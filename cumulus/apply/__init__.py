"""Manifests and configurations -> objects: what to store, and who owns which field of it.

`fieldset` and `ownership` are managedFields, `server_side` is what applying does to one object; all three are pure.
`plan` places in a manifest what forbids it. `apply` reads what is there, plans each object and writes all at once.
"""
