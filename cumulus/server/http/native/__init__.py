"""What our own client asks beyond Kubernetes' paths, below `/cumulus/v1/`.

A call is `POST /cumulus/v1/NAME` with its arguments as a JSON object. The answer is `{"value": …}`. A call that goes on
answers with lines of JSON: `{"item": …}` for each step, `{"end": true}` at its end, with a `value` where it returns
one, `{"error": Status}` after an error.
Values are written by `cumulus.answers.codec`. To add a call, add a line to `calls` and a method to
`cumulus.client.http.client`.
"""

from __future__ import annotations

from cumulus.server.http.native import applying, backups, handlers, watching

ROUTES = (*watching.ROUTES, *backups.ROUTES, *applying.ROUTES, *handlers.ROUTES)
