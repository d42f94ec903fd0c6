"""Manifests -> store, by a three-way merge and in one transaction.

`apply` reads what is there, plans each object (`plan`, pure, over `merge`, pure) and writes all at once.
"""

from cumulus.apply.apply import Prune, PruneRefused, apply
from cumulus.apply.merge import merge
from cumulus.apply.plan import Result, last_applied

__all__ = ["Prune", "PruneRefused", "Result", "apply", "last_applied", "merge"]
