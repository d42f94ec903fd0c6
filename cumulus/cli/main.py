"""The `cumulus` command: finds the verb, loads its module alone, runs it, and turns errors into exit codes.

Verbs live in `cumulus.cli.verbs`, one module a family. A verb is a function whose typer annotations are the one
source of its options; it returns its exit code, None for 0.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from cumulus import __version__, environment
from cumulus.cli import context, options, terminal
from cumulus.errors import CumulusError, UsageError
from cumulus.lib import descriptors, safe_output
from cumulus.lib.suggest import nearest
from cumulus.resources.documents import MALFORMED


class Verb(NamedTuple):
    """Where a verb's function is, and what one line of help says of it."""

    module: str
    summary: str
    runs_a_program: bool = False
    """Whether its first word begins another program's command line, whose options are not its own."""


VERBS: dict[str, Verb] = {
    "run": Verb("run", "Run a program of this directory on a leased share.", runs_a_program=True),
    "rerun": Verb("rerun", "Run a job again: make it anew under its name, and follow it."),
    "extend": Verb("extend", "Lengthen the lease of a running job, if that moves nobody who waits."),
    "attach": Verb("attach", "Follow a job until it is over, and end with its exit code."),
    "exec": Verb("exec", "Run a command beside a running job: a shell, say."),
    "cp": Verb("cp", "Copy files from a running job, or to it."),
    "port-forward": Verb("port_forward", "Reach a port of a running job at this machine's loopback."),
    "apply": Verb("apply", "Create or change objects from manifests."),
    "create": Verb("create", "Create objects from manifests; none of them may be there."),
    "replace": Verb("create", "Replace objects by manifests."),
    "patch": Verb("create", "Change fields of an object by a patch."),
    "edit": Verb("edit_object", "Edit an object in your editor."),
    "diff": Verb("apply", "Show what apply would change."),
    "get": Verb("get", "Show objects as a table, JSON, YAML or columns."),
    "describe": Verb("describe", "Show everything about an object, with its events."),
    "why": Verb("why", "Say why a job is not running, and when it starts at the latest."),
    "queue": Verb("queue", "Show who waits, in their order, and when each starts."),
    "logs": Verb("logs", "Show what a job wrote."),
    "checkpoints": Verb("checkpoints", "Show, fetch, verify and prune what a job has saved."),
    "ui": Verb("ui", "Open the page in a browser: who has which GPU, and until when."),
    "top": Verb("top", "Show what is leased and used now: of each device, job or user."),
    "report": Verb(
        "report", "Show what was held, used and idle, by user, queue or node; and which promises were kept."
    ),
    "events": Verb("events", "Show what happened, and why."),
    "wait": Verb("wait", "Wait for a condition, a field, creation or deletion."),
    "delete": Verb("delete", "Delete objects."),
    "suspend": Verb("edit", "Stop a job and give its lease back."),
    "resume": Verb("edit", "Let a suspended job run again."),
    "park": Verb("edit", "Free a running job's GPU: its program waits in main memory."),
    "unpark": Verb("edit", "Bring a parked job back to its GPU."),
    "cordon": Verb("edit", "Stop placing new jobs on a node."),
    "uncordon": Verb("edit", "Place jobs on a node again."),
    "drain": Verb("drain", "Stop placing jobs on a node, and wait until it is empty."),
    "node": Verb("node", "Add workers over SSH, set them up, drain and remove them."),
    "cluster": Verb("cluster", "Set up a Docker Swarm for jobs in containers."),
    "label": Verb("edit", "Set or remove labels."),
    "annotate": Verb("edit", "Set or remove annotations."),
    "api-resources": Verb("api_resources", "List the kinds of objects."),
    "explain": Verb("explain", "Describe a kind's fields."),
    "source": Verb("source", "Keep the cluster equal to a git repository or a directory."),
    "lint": Verb("lint", "Check manifests without a cluster."),
    "schema": Verb("lint", "Print JSON Schemas of all kinds, for editors."),
    "secret": Verb("secret", "Manage secrets that jobs may use."),
    "token": Verb("token", "Manage tokens, which show the API who asks."),
    "certificate": Verb("certificate", "Revoke client certificates, which show the API who asks."),
    "kubeconfig": Verb("kubeconfig", "Print a kubeconfig for kubectl, k9s and client libraries."),
    "login": Verb("login", "Log in to a server, and make it the one that commands ask."),
    "context": Verb("contexts", "Manage contexts: the servers that you have logged in to."),
    "auth": Verb("auth", "Show as whom the server knows you, and what you may do."),
    "serve": Verb("serve", "Run the daemon, with its controllers."),
    "doctor": Verb("doctor", "Check this machine, and say how to fix what is missing."),
    "backup": Verb("backup", "Write the store to one file; it may be in use."),
    "restore": Verb("backup", "Replace the store by a backup."),
    "completion": Verb("shell", "Print the completion script for a shell."),
    "version": Verb("shell", "Show versions."),
    "help": Verb("help", "Show the help of a command."),
}

ON_LINUX = frozenset(("serve", "doctor", "restore"))
"""Verbs that look after this machine, or files of its daemon."""

QUIET_INTERRUPT = 130
BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line. 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    descriptors.ensure()
    with safe_output.guarded():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return QUIET_INTERRUPT
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        terminal.error(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
        _drop_output()
        return 1
    except UsageError as error:
        terminal.error(error)
        return 2
    except CumulusError as error:
        terminal.error(error)
        return 1
    except MALFORMED as error:
        from cumulus.cli import left_out

        return left_out.tell(error)


def _drop_output() -> None:
    """The reader of our output has gone, or its disk is full: what is still buffered must not be tried at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    group = _group(completes=True) if environment.COMPLETE in os.environ else group_of_verbs()
    if environment.COMPLETE in os.environ:
        # A shell reads it, and breaks it into lines.
        sys.stdout = safe_output.raw(sys.stdout)
        group.main(arguments, prog_name="cumulus", complete_var=environment.COMPLETE)
    try:
        with group.make_context("cumulus", arguments) as made:
            return group.invoke(made) or 0
    except typer.Exit as request:
        return request.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        # Of `cumulus source add` its own help, not that of `cumulus source`.
        parsed = getattr(error, "ctx", None)
        verb = next((word for word in arguments if word in VERBS), "")
        asked = parsed.command_path if parsed is not None else f"cumulus {verb}".strip()
        raise UsageError(_sentence(error.format_message()), hint=f"see `{asked} --help`") from None


def _sentence(message: str) -> str:
    # The words before it are pydantic's, with which typer checks a value.
    message = message.strip().rstrip(".").replace(": Value error, ", ": ")
    return message[:1].lower() + message[1:]


class LightCommand(TyperCommand):
    """A verb whose plain options are read without pydantic, and whose flags may be written --flag=false."""

    def get_params(self, ctx: Any) -> Any:
        return _light(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.allow_interspersed_args:
            # Of another program's flags nothing is known.
            return list(super().parse_args(ctx, args))
        params = self.get_params(ctx)
        flags = {name: p for p in params if getattr(p, "is_flag", False) for name in p.opts}
        # What follows is another program's, as in `cumulus exec`.
        own = args.index("--") if "--" in args else len(args)
        plain = [arg for given in args[:own] for arg in _plain_flag(given, flags)]
        if any(options.DRY_RUN in p.opts for p in params) and options.DRY_RUN not in flags:
            plain = options.with_dry_run(plain)
        parsed: list[str] = super().parse_args(ctx, plain + args[own:])
        return parsed


class LazyGroup(TyperGroup):
    """Loads a verb's module when that verb is asked for, so that each starts as fast as it can."""

    def get_params(self, ctx: Any) -> Any:
        return _light(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load(cmd_name) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in VERBS and not args[0].startswith("-"):
            from cumulus.cli import others_words

            meant = others_words.meant(args, list(VERBS)) or "".join(nearest(args[0], VERBS))
            hint = f"did you mean `cumulus {meant}`?" if meant else "see `cumulus --help`"
            raise UsageError(f"there is no command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of verbs from the table alone: no verb is loaded for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        from typer.core import CompletionItem  # type: ignore[attr-defined]

        return [CompletionItem(n, help=verb.summary) for n, verb in VERBS.items() if n.startswith(incomplete)]


@functools.cache
def load(name: str) -> Any:
    """The command of one verb, or its group where it has verbs of its own (`app` in its module)."""
    verb = VERBS[name]
    if name in ON_LINUX and sys.platform != "linux":
        raise CumulusError(
            f"`cumulus {name}` runs on Linux alone",
            hint="servers and nodes do; ask one from here: cumulus login SERVER",
        )
    module = importlib.import_module(f"cumulus.cli.verbs.{verb.module}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        settings = {**_SETTINGS, "allow_interspersed_args": not verb.runs_a_program}
        run = getattr(module, name.replace("-", "_"))
        app.command(name, cls=LightCommand, short_help=verb.summary, context_settings=settings)(run)
    command = typer.main.get_command(app)
    command.name = name
    return _with_help_in_lines(command)


def _with_help_in_lines(command: Any) -> Any:
    """Click hands over its help as one text, which `print` would write as one line."""
    command.get_help = functools.partial(_help, command.get_help)
    for each in getattr(command, "commands", {}).values():
        _with_help_in_lines(each)
    return command


def _help(get: Callable[[Any], str], context: Any) -> NoReturn:
    safe_output.block(sys.stdout, get(context) + "\n")
    raise typer.Exit(0)


def _plain_flag(arg: str, flags: dict[str, Any]) -> list[str]:
    """kubectl's --wait=false and --all=true as click knows them: --no-wait, --all."""
    name, _, value = arg.partition("=")
    if name not in flags or value not in ("true", "false"):
        return [arg]
    if value == "true":
        return [name]
    return list(flags[name].secondary_opts[:1])


class _Plain:
    """Takes text and flags as they are."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        many = param.multiple or param.nargs == -1
        return () if value is None and many else value


def _light(params: Any) -> Any:
    """Typer builds a pydantic validator for every parameter, whose import would double the start of `get`; text
    and flags need none. Where a version of typer works otherwise nothing is changed."""
    for param in params:
        descriptor = getattr(param, "type_descriptor", None)
        if descriptor is not None and descriptor.annotation in (str, bool, list[str]):
            param.get_runtime_param = _Plain
    return params


@functools.cache
def _group(*, completes: bool) -> Any:
    """What reads a command line. The command server has made it before a command comes."""
    app = typer.Typer(
        cls=LazyGroup,
        add_completion=completes,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )
    app.callback(invoke_without_command=True)(_root)
    return _with_help_in_lines(typer.main.get_command(app))


def group_of_verbs() -> Any:
    """What reads any command line but a shell's, which completes it."""
    return _group(completes=False)


def _contexts(incomplete: str) -> list[str]:
    from cumulus.cli import completion

    return completion.contexts(incomplete)


def _root(
    ctx: typer.Context,
    home: Annotated[
        str, typer.Option(metavar="DIR", help="The state directory, instead of $CUMULUS_HOME.", show_default=False)
    ] = "",
    server: Annotated[
        str,
        typer.Option(
            metavar="https://HOST:PORT",
            help="The server to ask, instead of the current context. Also unix:PATH.",
            show_default=False,
        ),
    ] = "",
    context_name: Annotated[
        str,
        typer.Option(
            "--context", metavar="NAME", help="The context to use.", show_default=False, autocompletion=_contexts
        ),
    ] = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no daemon: open the store of the state directory itself.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Run jobs on a pool of GPU machines. Every GPU share is a lease with an end.

    \b
    Begin with:
      cumulus serve &                     run the daemon
      cumulus run -- python train.py      run a program on a leased share
      cumulus apply -f job.yaml           say what should exist
      cumulus get jobs                    see what exists
      cumulus why JOB                     ask why a job is not running
    """
    if home:
        os.environ[environment.HOME] = home
    context.choose(context.Choice(server, context_name, offline))
    if version:
        print(f"cumulus {__version__}")
        raise typer.Exit(0)
    if ctx.invoked_subcommand is None:
        ctx.get_help()


_SETTINGS = {"help_option_names": ["-h", "--help"]}

if __name__ == "__main__":
    sys.exit(main())
