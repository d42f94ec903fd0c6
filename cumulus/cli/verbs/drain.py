"""`cumulus drain`: `cumulus node drain`, where kubectl has it."""

from __future__ import annotations

from cumulus.cli.verbs import node


def drain(
    name: node.Name,
    now: node.DrainNow = False,
    timeout: node.DrainTimeout = "",
    at: node.DrainAt = "",
    duration: node.DrainFor = "",
    cancel: node.DrainCancel = False,
) -> int:
    """Stop placing jobs on a node, and wait until it is empty: the same as `cumulus node drain`.

    \b
    Examples:
      cumulus drain gpu-3
      cumulus drain gpu-3 --now --timeout 5m
      cumulus drain gpu-3 --at 22:00 --for 2h
    """
    return node.drain(name, now=now, timeout=timeout, at=at, duration=duration, cancel=cancel)
