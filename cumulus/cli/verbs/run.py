"""`cumulus run`: a program of this directory on a leased share, followed until it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus import paths
from cumulus.cli import (
    command_job,
    completion,
    console,
    context,
    feeding,
    followed,
    joined,
    options,
    raw_terminal,
    same_directory,
    script_options,
    terminal,
    this_shell,
)
from cumulus.cli.command_job import ArrayOptions, Shell, Wanted
from cumulus.cli.verbs import port_forward
from cumulus.errors import StoreUnavailable, UsageError
from cumulus.lib import safe_output
from cumulus.resources.annotations import SAME_DIRECTORY, TERMINAL_SIZE
from cumulus.resources.key import Document, key_of

if TYPE_CHECKING:
    from cumulus.client.base import Client

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROGRAM ARGS", help="The program and its arguments.", show_default=False),
]


def run(
    words: Words = None,
    gpu: Annotated[
        str,
        typer.Option(
            "--gpu",
            metavar="SHARE",
            show_default=False,
            help="Memory of the device: 25%, 0.5 or 20Gi. If left out, all of it.",
        ),
    ] = "",
    compute: Annotated[
        str,
        typer.Option(
            "--compute",
            metavar="SHARE",
            show_default=False,
            help="Compute of the device: 25%. If left out, the same share as of the memory.",
        ),
    ] = "",
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="N", show_default=False, help="How many devices, such a share of each; 1.")
    ] = "",
    duration: Annotated[
        str,
        typer.Option(
            "--for", metavar="DURATION", show_default=False, help="How long at most: 30m, 2h. If left out, an hour."
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            show_default=False,
            help="The job's name; if left out, the program's with five letters.",
        ),
    ] = "",
    replicas: Annotated[
        str, typer.Option("--replicas", metavar="N", show_default=False, help="Start it N times, all at once.")
    ] = "",
    image: Annotated[
        str, typer.Option("--image", metavar="IMAGE", show_default=False, help="Run it in a container of this image.")
    ] = "",
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            "-e",
            metavar="NAME[=VALUE]",
            show_default=False,
            help="Set a variable, or pass on this shell's. May be given several times.",
        ),
    ] = None,
    env_file: Annotated[
        list[str] | None,
        typer.Option("--env-file", metavar="FILE", show_default=False, help="Set variables from lines NAME[=VALUE]."),
    ] = None,
    export: Annotated[
        str,
        typer.Option(
            "--export",
            autocompletion=completion.one_of("ALL", "NONE"),
            metavar="ALL|NONE",
            show_default=False,
            help="Pass on all of this shell's variables, "
            "or none. If left out: PATH and what else finds programs and libraries, and the locale.",
        ),
    ] = "",
    retry: Annotated[
        str, typer.Option("--retry", metavar="N", show_default=False, help="Start it again up to N times if it fails.")
    ] = "",
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint",
            metavar="PATH",
            show_default=False,
            help="Where it saves. When its lease is over, it goes on from there in the next.",
        ),
    ] = "",
    queue: Annotated[
        str,
        typer.Option(
            "--queue",
            metavar="QUEUE",
            show_default=False,
            help="The queue to wait in. If left out, yours.",
            autocompletion=completion.queues,
        ),
    ] = "",
    after: Annotated[
        str,
        typer.Option(
            "--after", metavar="JOB[,JOB]", show_default=False, help="Wait until these jobs of yours have succeeded."
        ),
    ] = "",
    idle: Annotated[
        str,
        typer.Option(
            "--idle",
            metavar="DURATION[:ACTION]",
            show_default=False,
            help="If its GPU does nothing for so long: park it, release (end) it, or only report that. 20m parks.",
        ),
    ] = "",
    array: Annotated[
        str,
        typer.Option(
            "--array",
            metavar="INDEXES",
            show_default=False,
            help="A job for each index, as 0-99; 0-99%8: eight at once. It is in CUMULUS_ARRAY_INDEX.",
        ),
    ] = "",
    values: Annotated[
        str,
        typer.Option(
            "--values",
            metavar="V,V",
            show_default=False,
            help="A job for each value, which is in CUMULUS_ARRAY_VALUE.",
        ),
    ] = "",
    matrix: Annotated[
        list[str] | None,
        typer.Option(
            "--matrix",
            metavar="NAME=V,V",
            show_default=False,
            help="A job for each combination of values: lr is in CUMULUS_MATRIX_LR. May be given several times.",
        ),
    ] = None,
    parallelism: Annotated[
        str,
        typer.Option("--parallelism", metavar="N", show_default=False, help="So many jobs of an array at once; 10."),
    ] = "",
    preemptible: Annotated[
        str,
        typer.Option(
            "--preemptible",
            autocompletion=completion.one_of("Kill", "Checkpoint"),
            metavar="Kill|Checkpoint",
            show_default=False,
            help="How it gives up a share that another queue needs: Kill ends it, and it begins anew later. If left "
            "out, Checkpoint: only a job that keeps checkpoints gives it up.",
        ),
    ] = "",
    secret_env: Annotated[
        list[str] | None,
        typer.Option(
            "--secret-env",
            metavar="NAME=SECRET/KEY",
            show_default=False,
            help="Set a variable from a key of a secret, which is read on the node. May be given several times.",
        ),
    ] = None,
    cpus: Annotated[
        str, typer.Option("--cpus", metavar="N", show_default=False, help="At most so many CPUs of the node.")
    ] = "",
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", show_default=False, help="At most so much main memory: 8Gi.")
    ] = "",
    stdin: Annotated[
        bool, typer.Option("--stdin", "-i", help="Pass this command's input on. With -t: type at its terminal.")
    ] = False,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="With -i: run it at a terminal, joined to this one, as srun --pty.")
    ] = False,
    sync: Annotated[
        bool,
        typer.Option("--sync", help="Carry this directory to the node where it runs, and bring back what it changes."),
    ] = False,
    sync_limit: Annotated[
        str,
        typer.Option(
            "--sync-limit", metavar="SIZE", show_default=False, help="At most so much each way; 256Mi if left out."
        ),
    ] = "",
    port: Annotated[
        list[str] | None,
        typer.Option(
            "--port",
            metavar="PORT",
            show_default=False,
            help="Reach this port of the program at this machine's loopback. May be given several times.",
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not follow it; print its name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the job that would be made.")] = False,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FORM", show_default=False, help="With --dry-run: yaml or json."),
    ] = "",
    namespace: options.Namespace = "",
) -> int | None:
    """Run a program of this directory on a leased share of a GPU.

    It starts in this directory, with this shell's PATH, virtual environment and locale. Its output is shown here as it
    comes, and the exit code is its own; 124 means that its lease was over, 137 that it used too much memory, and 126
    that it could not be started. It goes on if this terminal is closed. Ctrl-C leaves it alone too, and says how to
    come back; Ctrl-C twice ends it.

    A script may hold options itself, in lines `#CUMULUS --gpu 25% --for 2h` before its first command; those of Slurm's
    `#SBATCH` lines that have a meaning here are taken too. ~/.config/cumulus/run.options holds your own defaults.

    \b
    Examples:
      cumulus run -- python train.py --epochs 10
      cumulus run --gpu 25% --for 2h -- python train.py
      cumulus run --gpu 20Gi --name tune -d -- ./tune.sh
      cumulus run -e HF_HOME=/data/hf --env-file job.env -- python train.py
      cumulus run --secret-env HF_TOKEN=hub/token -- python train.py
      cumulus run train.sh
      cumulus run --array 0-99%8 -- sh -c 'python train.py --seed $CUMULUS_ARRAY_INDEX'
      cumulus run --matrix lr=0.1,0.01 --matrix seed=0,1 -- python train.py --lr '$(CUMULUS_MATRIX_LR)'
      cumulus run --export ALL --checkpoint saves --retry 3 -- python train.py
      cumulus run -it --gpu 10% --for 1h -- bash
      zcat data.gz | cumulus run -i --gpu 10% -- python train.py -
      cumulus run --sync --gpu 25% --for 2h -- python train.py
      cumulus run --port 8888 --idle 20m -- jupyter lab --no-browser
      cumulus run --gpu 50% --dry-run -o yaml -- python train.py > job.yaml
    """  # fmt: skip
    if output and not dry_run:
        raise UsageError("-o is for --dry-run", hint="a job's name is printed with -d")
    if output not in ("", "yaml", "json"):
        raise UsageError(f"there is no output format {output!r} here", hint="the formats are yaml and json")
    if tty and not stdin:
        raise UsageError("-t needs -i: -it", hint="without them the program's output is shown as it comes")
    if stdin and detach:
        what = "a program at a terminal" if tty else "a program that waits for this command's input"
        raise UsageError(f"{what} is not left alone from the start", hint=f"leave {'-it' if tty else '-i'} or -d out")
    if stdin and not tty and sys.stdin is None:
        raise UsageError("-i passes on this command's input, and it has none", hint="leave -i out")
    if sync_limit and not sync:
        raise UsageError("--sync-limit is for --sync", hint="leave it out, or add --sync")
    if sync and detach:
        raise UsageError("a directory is carried by this command, which stays", hint="leave --sync or -d out")
    most = followed.most(sync_limit) if sync else 0
    ports = [port_forward.number(word) for word in port or ()]
    if tty and not dry_run:
        joined.check_terminal()
    if dry_run and detach:
        raise UsageError("--dry-run runs nothing that could be left alone", hint="leave -d out")
    shell = Shell(this_shell.directory(), os.environ, this_shell.umask())
    scalars = {
        "gpu": gpu, "compute": compute, "gpus": gpus, "duration": duration, "name": name, "replicas": replicas,
        "image": image, "export": export, "retry": retry, "checkpoint": checkpoint, "queue": queue, "cpus": cpus,
        "memory": memory, "after": after, "array": array, "idle": idle,
        "values": values, "parallelism": parallelism, "preemptible": preemptible,
    }  # fmt: skip
    lists = {"env": env or [], "env_file": env_file or [], "secret_env": secret_env or [], "matrix": matrix or []}
    script = (
        None if image else script_options.of_script(words or (), shell.directory, os.environ.get("PATH", os.defpath))
    )
    told = [each for each in (script, script_options.defaults(paths.run_options_file())) if each is not None]
    given, many = script_options.merged(scalars, lists, *told)
    if script is not None:
        words = list(script.words)
        shell = shell._replace(directory=os.path.normpath(os.path.join(shell.directory, script.directory)))
        if script.left_out:
            terminal.note(f"Of #SBATCH these have no meaning here, and are left out: {', '.join(script.left_out)}.")
    ending = command_job.random_ending()
    if base := given.get("base"):
        given["name"] = given["name"] or f"{base}-{ending}"
    wanted = Wanted(
        tuple(words or ()), given["gpu"], given["compute"], options.count(given["gpus"], "--gpus", 1),
        given["duration"], given["name"], options.count(given["replicas"], "--replicas", 1), given["image"],
        tuple(this_shell.variables(many["env"], many["env_file"])), given["export"],
        options.count(given["retry"], "--retry", 0),
        given["checkpoint"], given["queue"], tuple(map(script_options.secret_env, many["secret_env"])), given["cpus"],
        given["memory"], tty, tuple(name for name in given["after"].split(",") if name),
        given["idle"], given["preemptible"], stdin, sync,
    )  # fmt: skip
    image = given["image"]
    made = command_job.job_of(wanted, shell, context.namespace(namespace), ending)
    job = made.job
    if tty and all(size := raw_terminal.size()):
        job["metadata"].setdefault("annotations", {})[TERMINAL_SIZE] = "{}x{}".format(*size)
    remote = context.endpoint().kind == "https"
    if not image and not remote:
        job["spec"]["command"][0] = this_shell.program(wanted, job, shell)
    if sync:
        # Loaded by those that carry something.
        from cumulus.cli import carried

        job["spec"]["command"] = [*carried.UNPACK, *job["spec"]["command"]]
    indexes = ArrayOptions(given["array"], given["values"], many["matrix"], given["parallelism"])
    if any(indexes):
        _run_array(wanted, made, indexes, shell, [*ports], dry_run=dry_run, output=output)
        return None
    if dry_run:
        _tell(wanted, made.secret)
        _print(job, output)
        _tell_start(job)
        return None
    archive = carried.packed(Path(shell.directory), most) if sync else None
    uid = _submit(job, None if image or sync else shell.directory)
    _tell(wanted, made.secret)
    if remote and not image and not sync:
        also = str(job["metadata"].get("annotations", {}).get(SAME_DIRECTORY, "")).replace(",", " or ")
        terminal.note(f"It runs on the server's machine{f' or {also}' if also else ''}, in {shell.directory} there.")
    with port_forward.beside(key_of(job), ports, here=not remote or detach):
        if detach:
            print(job["metadata"]["name"])
            return None
        if tty:
            return console.attach(key_of(job), uid)
        feeder = feeding.Feeder(key_of(job), archive) if stdin or sync else None
        code = followed.follow(key_of(job), uid, feeder)
    return followed.bring_back(code, key_of(job), Path(shell.directory), most) if sync else code


def _run_array(
    wanted: Wanted, made: command_job.MadeJob, indexes: ArrayOptions, shell: Shell, ports: Sequence[int], *,
    dry_run: bool, output: str,
) -> None:  # fmt: skip
    """A job for each index, of which none is followed."""
    if wanted.tty or wanted.stdin or wanted.sync or ports:
        raise UsageError(
            "an array makes many jobs, of which none is joined", hint="leave -i, -t, --sync and --port out"
        )  # fmt: skip
    array = command_job.array_of(made.job, indexes)
    if not dry_run:
        _submit(made.job, None if wanted.image else shell.directory, lambda job: command_job.array_of(job, indexes))
    _tell(wanted, made.secret)
    if dry_run:
        _print(array, output)
    else:
        print(array["metadata"]["name"])


def _submit(job: Document, directory: str | None, whole: Callable[[Document], Document] = lambda job: job) -> str:
    """Create the job, or the `whole` that it is one of; the uid. `directory`: where its program is to start, None for a
    container. Raises CumulusError, also where no daemon would run it."""
    title = f"gpujob/{job['metadata']['name']}"
    with context.client(quiet=True) as client:
        context.check_daemon(client)
        if directory is not None:
            _note_nodes(client, job, directory)
        try:
            return str(client.create(whole(job))["metadata"]["uid"])
        except KeyboardInterrupt:
            terminal.note(f"{title} may have been made: see `cumulus get job {job['metadata']['name']}`.")
            raise


def _tell_start(job: Document) -> None:
    """When the job would start, where somebody can say."""
    with context.client(quiet=True) as client, suppress(StoreUnavailable):
        if context.endpoint().kind == "embedded" and client.server_state().pid is None:
            return
        terminal.note(f"gpujob/{job['metadata']['name']}: {client.forecast(job)}.")


def _note_nodes(client: Client, job: Document, directory: str) -> None:
    """Let the job go to the other nodes on which the directory is the same, too."""
    found = same_directory.found(client, directory, job["metadata"]["namespace"])
    if same := [each.node for each in found if not each.problem]:
        job["metadata"].setdefault("annotations", {})[SAME_DIRECTORY] = ",".join(same)
    if others := [f"{each.node} ({each.problem})" for each in found if each.problem]:
        terminal.note(f"It does not go to {', '.join(others)}.")


def _tell(wanted: Wanted, secret: Sequence[str]) -> None:
    """What was decided for the person."""
    devices = f"{wanted.gpus} devices" if wanted.gpus > 1 else "one device"
    share = f"{'all the memory' if wanted.compute else 'the whole'} of {devices}"
    if not wanted.gpu and not wanted.duration:
        terminal.note(f"Leasing {share} for an hour; --gpu 25% and --for 2h change that.")
    elif not wanted.gpu:
        terminal.note(f"Leasing {share}; --gpu 25% changes that.")
    elif not wanted.duration:
        terminal.note("Leasing it for an hour; --for 2h changes that.")
    if secret:
        terminal.note(
            f"Not exported, since whoever may read the job could read them: {', '.join(secret)}. "
            "For a secret, use `cumulus secret create`, and name it with --secret-env."
        )
    if named := [name for name, _ in wanted.env if command_job.is_secret(name)]:
        terminal.warning(f"whoever may read the job can read {', '.join(dict.fromkeys(named))}: it is a part of it")


def _print(job: Document, output: str) -> None:
    from cumulus import manifest
    from cumulus.cli import printers

    try:
        manifest.from_documents([job])
    except manifest.InvalidManifest as error:
        raise UsageError("; ".join(f"{each.field}: {each.message}" for each in error.problems)) from None
    text = printers.to_json(job) if output == "json" else printers.to_yaml(job)
    safe_output.block(sys.stdout, f"{text}\n")
