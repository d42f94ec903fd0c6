"""The objects that kubectl sends as Protobuf, field by field: see `protobuf`. Numbers are those of Kubernetes' API."""

from __future__ import annotations

from cumulus.server.http.kubernetes.protobuf import Body, Field, Message

_LABELS = Message({1: Field("key", "string"), 2: Field("value", "string")})
_METADATA = Message(
    {
        1: Field("name", "string"), 2: Field("generateName", "string"), 3: Field("namespace", "string"),
        11: Field("labels", _LABELS, map=True), 12: Field("annotations", _LABELS, map=True),
    }
)  # fmt: skip

NAMESPACE = Body("v1", "Namespace", Message({1: Field("metadata", _METADATA)}))
SECRET = Body(
    "v1",
    "Secret",
    Message(
        {
            1: Field("metadata", _METADATA),
            2: Field("data", Message({1: Field("key", "string"), 2: Field("value", "bytes")}), map=True),
            3: Field("type", "string"), 4: Field("stringData", _LABELS, map=True), 5: Field("immutable", "bool"),
        }
    ),
)  # fmt: skip

_RESOURCE = Message(
    {
        1: Field("namespace", "string"), 2: Field("verb", "string"), 3: Field("group", "string"),
        4: Field("version", "string"), 5: Field("resource", "string"), 6: Field("subresource", "string"),
        7: Field("name", "string"),
    }
)  # fmt: skip
_PATH = Message({1: Field("path", "string"), 2: Field("verb", "string")})
_ASKED = Message({1: Field("resourceAttributes", _RESOURCE), 2: Field("nonResourceAttributes", _PATH)})
AUTHORIZATION = "authorization.k8s.io"
AUTHENTICATION = "authentication.k8s.io"
EVENTS = "events.k8s.io"
ACCESS_REVIEW = Body(
    f"{AUTHORIZATION}/v1",
    "SelfSubjectAccessReview",
    Message(
        {
            1: Field("metadata", _METADATA),
            2: Field("spec", _ASKED),
        }
    ),
)  # fmt: skip
RULES_REVIEW = Body(
    f"{AUTHORIZATION}/v1",
    "SelfSubjectRulesReview",
    Message({1: Field("metadata", _METADATA), 2: Field("spec", Message({1: Field("namespace", "string")}))}),
)
SELF_REVIEW = Body(f"{AUTHENTICATION}/v1", "SelfSubjectReview", Message({1: Field("metadata", _METADATA)}))
