"""Annotations that say who made an object. Light: no model is loaded."""

from __future__ import annotations

SUBMITTER = "cumulus.dev/submitter"
"""Annotation: the name of the user who made the object. What controllers make from it has the same."""
SUBMITTER_UID = "cumulus.dev/submitter-uid"
"""Annotation: that user's number on this machine, where there is one."""
SUBMITTER_ADMIN = "cumulus.dev/submitter-admin"
"""Annotation, "true": that user was an admin everywhere, so containers may have what their spec asks for."""
SUBMITTER_ANNOTATIONS = (SUBMITTER, SUBMITTER_UID, SUBMITTER_ADMIN)
"""Written by the service when an object is made; nobody changes them after that."""
