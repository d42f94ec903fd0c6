"""Whether a lease is renewed before it ends."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cumulus.resources.fields import Duration, FieldError, Model


class Renewal(Model):
    """Whether the lease is renewed before it ends."""

    policy: Literal["Never", "WhileIdle"] = Field(
        "Never", description="WhileIdle: renew while nobody waits for the device, and no reservation holds it."
    )
    maximum: Duration | None = Field(None, description="The longest the lease may last in all; required for WhileIdle.")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.policy == "WhileIdle" and self.maximum is None:
            raise FieldError(("maximum",), "is required for policy WhileIdle; add maximum: 8h")
        return self
