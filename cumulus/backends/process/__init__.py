"""The embedded backend: jobs as local processes, each under a supervisor that outlives the daemon.

    controller -> backend.ProcessBackend -> spec.json -> supervisor (lock, lease, started.json) -> the command
    the command -> supervisor -> log, exit.json -> inotify and pidfd -> backend -> controller

Modules of the supervisor, a process of its own for each run: `supervisor` (from its lock to the end), `launch` (starts
the command), `command` (the command while it runs), `lease_guard`, `process_tree`, `rlimits`. `fork_server` forks them,
and `ledger_server`, which has the ledger open for them; each fork begins in `forked`. Modules of the daemon: `backend`,
`run` (one run, as its files say), `specification`, `environment`, `watch`. Both know `layout`.

As root it runs each program as the job's submitter, under a supervisor that stays root's. What it does not do, for it
needs no root:
- A job of the daemon's own user sees the node's files and that user's other processes, can read their environments
  (/proc/PID/environ, secrets too) and could end its own supervisor. Mounts are symbolic links, and read-only ones are
  refused.
- The memory limit is a watch ten times a second over all processes of the job, which ends it with OOMKilled: what
  is allocated and used within a tenth of a second is not stopped before. Device memory is the lease's matter.
- The CPU limit pins to that many CPUs, rounded up: half a CPU is a whole one, and jobs may share theirs.
- A log keeps its first 8 and its last 56 MiB. Secrets that a job prints as they are do not get into it; shorter ones
  than 4 characters, or encoded ones, do.
- A process that changes its user (setuid) may refuse the signals of an unprivileged supervisor; the run then goes on
  until that process ends, and its lease's share stays taken.
"""
