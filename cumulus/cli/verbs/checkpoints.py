"""`cumulus checkpoints`: what a job has saved. What is fetched goes to the directory that was named alone."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cumulus.cli import context, options, targets, terminal
from cumulus.cli.options import JobWords, Namespace
from cumulus.cli.subcommands import subcommands
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.table import Heading, Table
from cumulus.resources.columns import NOTHING
from cumulus.resources.kinds import gpujob
from cumulus.resources.quantity import format_bytes
from cumulus.resources.registry import find_kind

if TYPE_CHECKING:
    from cumulus.answers.checkpoints import CheckpointCopied, CheckpointFound, CheckpointPiece
    from cumulus.resources.key import Key


class ListByDefault(TyperGroup):
    """`checkpoints JOB` lists those of the job."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-") and _names_a_job(args):
            args = ["list", *args]
        return super().resolve_command(ctx, args)


def _names_a_job(words: Sequence[str]) -> bool:
    """Whether words that begin with no command begin with a job: NAME, job NAME or job/NAME. Else they begin with a
    command that there is not."""
    if len(words) == 1 or words[1].startswith("-") or "/" in words[0]:
        return True
    try:
        find_kind(words[0])
    except UsageError:
        return False
    return True


app = subcommands("Show, fetch, verify and prune what a job has saved. `cumulus checkpoints JOB` lists.", ListByDefault)
Beyond = Annotated[
    bool, typer.Option("--beyond", help="Those that are kept beyond the node: in S3, or a shared directory.")
]
Step = Annotated[int | None, typer.Option("--step", metavar="N", help="The step; the newest if left out.")]
OneStep = Annotated[int | None, typer.Option("--step", metavar="N", help="The step; all of them if left out.")]


@app.command("list")
def list_(words: JobWords, beyond: Beyond = False, namespace: Namespace = "", output: options.JsonOutput = "") -> None:
    """List the checkpoints of a job, newest first.

    \b
    Examples:
      cumulus checkpoints list train
      cumulus checkpoints list train --beyond
      cumulus checkpoints list job/train -n team -o json
    """
    options.check_json(output)
    with context.client() as client:
        found = client.checkpoints(_key(words, namespace), beyond=beyond)
    if output == "json":
        import json

        from cumulus.answers.codec import encode
        from cumulus.lib import safe_output

        safe_output.block(sys.stdout, json.dumps(encode(found), indent=2) + "\n")
        return
    _table(found.found)
    if beyond:
        print(f"In {found.path}", file=sys.stderr)
        return
    print(f"On {found.node}: {found.path}", file=sys.stderr)
    if found.uri:
        print(f"Beyond it: {found.uri}{_copied(found.copied)}", file=sys.stderr)
        if found.copied is not None and found.copied.problem:
            print(f"  {found.copied.problem}", file=sys.stderr)


def _copied(copied: CheckpointCopied | None) -> str:
    """How far the copy there is."""
    if copied is None:
        return ""
    said = "nothing yet" if copied.step is None else f"step {copied.step}"
    if copied.copying is not None:
        said += f", step {copied.copying} is on its way"
    return f" ({said})"


@app.command("verify")
def verify(words: JobWords, step: OneStep = None, beyond: Beyond = False, namespace: Namespace = "") -> int:
    """Read every byte of a checkpoint, or of all, and say which are whole.

    Exit code 1: one is not, or the job has none of that step.

    \b
    Examples:
      cumulus checkpoints verify train
      cumulus checkpoints verify train --step 1200
    """
    with context.client() as client:
        found = list(client.verify_checkpoints(_key(words, namespace), step=step, beyond=beyond))
    _table(found)
    return 1 if any(each.problem for each in found) else 0


@app.command("fetch")
def fetch(
    words: JobWords,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Where to put it; the job's name if left out.")] = "",
    step: Step = None,
    beyond: Beyond = False,
    namespace: Namespace = "",
) -> None:
    """Copy a checkpoint to this machine, as DIR/step-NUMBER, and verify it.

    \b
    Examples:
      cumulus checkpoints fetch train
      cumulus checkpoints fetch train --step 1200 --to ./weights
      cumulus checkpoints fetch train --beyond
    """
    key = _key(words, namespace)
    with context.client() as client:
        print(receive(client.fetch_checkpoint(key, step=step, beyond=beyond), Path(to or key.name)))


@app.command("prune")
def prune(
    words: JobWords,
    keep: Annotated[int, typer.Option("--keep", metavar="N", help="How many whole ones stay; at least 1.")] = 1,
    beyond: Beyond = False,
    namespace: Namespace = "",
) -> None:
    """Delete all checkpoints of a job on its node, or beyond it, but the newest whole ones.

    \b
    Examples:
      cumulus checkpoints prune train --keep 2
    """
    with context.client() as client:
        gone = client.prune_checkpoints(_key(words, namespace), keep=keep, beyond=beyond)
    for step in gone:
        print(f"step {step} deleted")
    if not gone:
        terminal.note("Nothing to delete.")


def receive(pieces: Iterator[CheckpointPiece], target: Path) -> Path:
    """Write what comes of a checkpoint into a directory below `target`, verify it, and give it its name. Raises
    CumulusError for a file that would lie elsewhere, or that is not what the manifest says."""
    from cumulus.answers.checkpoints import CheckpointFile, CheckpointManifest
    from cumulus.checkpoint import layout

    head = next(pieces, None)
    if not isinstance(head, CheckpointManifest):
        raise CumulusError("the server sent no checkpoint")
    try:
        manifest = layout.FilesManifest.decode(head.content, head.step)
    except layout.Damaged as damaged:
        raise CumulusError(f"the server sent no checkpoint: {damaged}") from None
    final = Path(layout.directory(str(target), head.step))
    if os.path.lexists(final):
        raise UsageError(f"{final} is there already", hint="name another directory with --to")
    made = target / layout.temporary_name(head.step)
    made.mkdir(mode=0o700, parents=True)
    room = shutil.disk_usage(made).free
    if manifest.size > room:
        made.rmdir()
        raise CumulusError(
            f"the checkpoint has {format_bytes(manifest.size)}, and the disk of {target} has room for "
            f"{format_bytes(room)}",
            hint="name a directory on another disk with --to",
        )
    unverified = made
    try:
        expected = {file.path: file.size for file in manifest.files}
        for piece in pieces:
            if not isinstance(piece, CheckpointFile) or expected.pop(piece.path, None) != piece.size:
                raise CumulusError("the server sent what is not in the checkpoint's manifest")
            _write(made, piece, pieces)
        (made / layout.MANIFEST).write_bytes(head.content)
        os.rename(made, final)
        unverified = final
        layout.verify(str(target), head.step)
    except BaseException as error:
        shutil.rmtree(unverified, ignore_errors=True)
        if isinstance(error, layout.Damaged | OSError):
            raise CumulusError(f"the checkpoint did not come whole: {error}") from None
        raise
    return final


def _write(directory: Path, file: Any, pieces: Iterator[CheckpointPiece]) -> None:
    from cumulus.answers.checkpoints import CheckpointBytes
    from cumulus.checkpoint import layout

    # The manifest was decoded, which refuses such paths: this is for what it may come to allow.
    if not layout.is_safe(file.path):
        raise CumulusError("the server sent a file that would lie outside of the directory")
    path = directory / file.path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    left = file.size
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as out:
        while left > 0:
            piece = next(pieces, None)
            if not isinstance(piece, CheckpointBytes) or not piece.data or len(piece.data) > left:
                raise CumulusError("the checkpoint did not come whole", hint="fetch it again")
            out.write(piece.data)
            left -= len(piece.data)


def _table(found: Sequence[CheckpointFound]) -> None:
    if not found:
        terminal.note("No checkpoints found.")
        return
    headings = (
        Heading("STEP", "whole"), Heading("SAVED", "whole"), Heading("SIZE", "whole"), Heading("TOOK", "whole", 1),
        Heading("ATTEMPT", "whole", 3), Heading("FILES", "whole", 2), Heading("PROBLEM", "wrap"),
    )  # fmt: skip
    rows = [
        [
            # Nothing is known of a damaged one; of one beyond the node, what it took and its files once it is read.
            str(each.step), each.saved_at or NOTHING, format_bytes(each.size) if each.saved_at else NOTHING,
            f"{each.seconds:.1f}s" if each.seconds else NOTHING, str(each.attempt) if each.saved_at else NOTHING,
            str(each.files) if each.files else NOTHING, each.problem or NOTHING,
        ]
        for each in found
    ]  # fmt: skip
    Table(headings, sys.stdout).write(rows)


def _key(words: Sequence[str], namespace: str) -> Key:
    target = targets.parse_one(words, default=gpujob.KIND)
    if not target.kind.runs:
        raise UsageError(f"only jobs keep checkpoints, not {target}")
    return targets.key(target, context.namespace(namespace))
