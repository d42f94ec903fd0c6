"""The standard input of a job's container, which one who feeds it writes."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from pathlib import Path

from cumulus.chronos.job_container import JobContainer, hang_up
from cumulus.chronos.runtime import END, GIVEN, INPUTS, SLOTS
from cumulus.errors import NotRunning
from cumulus.lib import unix_socket
from cumulus.lib.run_channel import CHUNK, ENDED, FULL, SILENT_SECONDS, STARTED, STDIN, Frames

_JOIN_SECONDS = 5.0


class ContainerInput:
    """The standard input of the container's own program, which waits for it at a pipe: see `runtime.hold_input`.

    Where whoever feeds it goes away before its end, the program gets SIGHUP first: half an input never looks like a
    whole one."""

    def __init__(self, reached: JobContainer, home: Path) -> None:
        self._reached = reached
        self._place = home / SLOTS / INPUTS / reached.id

    def run(self, frames: Frames) -> None:
        pipe, holder = self._taken()
        try:
            frames.put(STARTED)
            if not self._carried(frames, pipe):
                hang_up(self._reached)
            with contextlib.suppress(OSError):
                holder.send(END)
        finally:
            os.close(pipe)
            holder.close()
        frames.put_json(ENDED, [0, ""])

    def _taken(self) -> tuple[int, socket.socket]:
        """The writable end of its pipe, and whom to tell that all is written. Raises NotRunning."""
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        holder.settimeout(_JOIN_SECONDS)
        try:
            with unix_socket.short(str(self._place)) as address:
                holder.connect(address)
            _, descriptors, _, _ = socket.recv_fds(holder, len(GIVEN), 1, socket.MSG_CMSG_CLOEXEC)
            if descriptors:
                os.set_blocking(descriptors[0], False)
                return descriptors[0], holder
        except OSError:
            pass
        holder.close()
        raise NotRunning("its program waits for no input, or was given it before")

    def _carried(self, frames: Frames, pipe: int) -> bool:
        """Whether the program has taken all, or takes no more. False where whoever feeds it is gone."""
        waits, whole, heard = bytearray(), False, time.monotonic()
        while waits or not whole:
            poll = select.poll()
            listens = len(waits) < FULL
            poll.register(frames.source, select.POLLIN if listens else 0)
            if frames.waiting:
                poll.register(frames.sink, select.POLLOUT)
            poll.register(pipe, select.POLLOUT if waits else 0)
            ready = dict(poll.poll(1000))
            if ready.get(pipe, 0) & select.POLLERR:
                return True
            frames.flush()
            if ready.get(frames.source, 0) & select.POLLIN:
                heard = time.monotonic()
                for frame in frames.take():
                    if frame.kind == STDIN:
                        waits += frame.data
                        whole = whole or not frame.data
            elif frames.source in ready:
                return False
            if frames.ended or (listens and time.monotonic() - heard > SILENT_SECONDS):
                return False
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                while waits:
                    del waits[: os.write(pipe, waits[:CHUNK])]
        return True
