"""What a partition says of a share that goes back to the queue whose quota it is."""

from __future__ import annotations

from pydantic import Field

from cumulus.resources.fields import Model, Time


class Reclaim(Model):
    """A share that is taken back before its lease ends."""

    at: Time = Field(description="From then on its job is asked to save and end.")
    gang: str = Field(description="For whom: namespace/name of a gang, or of a partition.")
    job: str = Field("", description="For which job, as namespace/name.")
    queue: str = Field("", description="The queue of that job.")


def words(reclaim: Reclaim) -> str:
    """its share goes back to the queue vision, for job default/tune"""
    who = f"job {reclaim.job}" if reclaim.job else f"partition {reclaim.gang}"
    return f"its share goes back to the queue {reclaim.queue}, for {who}"
