"""`cumulus why`: why a job is not running: what blocks it, who holds that, until when at the latest, who is ahead."""

from __future__ import annotations

import sys

from cumulus.cli import context, options, targets
from cumulus.cli.left_out import LeftOut
from cumulus.lib import safe_output
from cumulus.resources.kinds import gpujob


def why(words: options.JobWords, namespace: options.Namespace = "") -> None:
    """Say why a job is not running: what it waits for, who holds that and until when at the latest, and who is ahead in
    the queue.

    Every lease has an end, so a waiting job can be told when it starts at the latest. You can also ask about a
    partition: partition/NAME.

    \b
    Examples:
      cumulus why train
      cumulus why job/train -n research
      cumulus why partition/mine
    """
    target = targets.parse_one(words, default=gpujob.KIND)
    with context.client() as client:
        answer = client.why(targets.key(target, context.namespace(namespace)))
        for line in answer.lines:
            safe_output.paragraph(sys.stdout, line)
        state = client.server_state()
        if state.pid is None and not answer.over:
            print(f"No daemon runs on {state.home}: nothing happens until `cumulus serve` is started.")
        left_out = LeftOut(client)
        left_out.add(*answer.damaged)
        left_out.tell()
