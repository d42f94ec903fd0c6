"""The daemon's settings: read once, checked, and handed down. Nothing below reads the environment again.

A flag of `cumulus serve` wins over the environment (`cumulus.environment`), and that over the configuration file, which
has few keys. Each is checked, and an unknown one is an error at its line:

    apiVersion: cumulus.dev/v1alpha1
    node:
      name: gpu-3              # the GPUNode's name; the host's name if left out
      labels: {rack: "7"}      # put on the node
    chronos:
      offerCPU: true           # lease the CPU beside a GPU too
    workers: 4                 # threads for each of the job and partition controllers
    jobs:
      env: {TMPDIR: /scratch}  # variables of every job without an image; a job's own win
      shared: [/home]          # directories that are the same on all nodes: such a job may start in them anywhere
    containers:                # of those who are no admins
      mounts: [/data]          # directories of the nodes that they may mount from; none if left out
    logs:                      # of each replica of each attempt
      first: 8Mi               # kept of its beginning
      last: 56Mi               # kept of its end; what is between them is dropped, and a line says how much
    api:                       # over TLS; its own user is answered at CUMULUS_HOME/api.sock too
      listen: 0.0.0.0:6443     # HOST:PORT; 127.0.0.1 and a free port if left out
      names: [gpu.example.org] # by which clients call it, beside this machine's own names and addresses
      tlsCert: /etc/ssl/c.pem  # the server's certificate and its chain, as PEM; its own authority makes one if left out
      tlsKey: /etc/ssl/c.key   # the key of that
      clientCA: /etc/ssl/u.pem # signs the certificates of users; the own authority if left out
      page: 127.0.0.1:8265     # the page for browsers of this machine, without TLS; a free port if left out; off
    grpc:                      # for the SDK, over TLS with the API's certificate, and at CUMULUS_HOME/grpc.sock
      listen: 0.0.0.0:50051    # HOST:PORT; 127.0.0.1:50051 if left out; off: no gRPC, at the socket neither
    blobs:                     # arguments, code and results of calls
      directory: /srv/blobs    # the bucket of CUMULUS_S3_BUCKET, else CUMULUS_HOME/blobs, if left out
      largest: 16Gi            # one blob
      limit: 64Gi              # all blobs of one user
      retention: 1d            # kept so long after its last use, where no job names it
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cumulus import environment, paths
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.swarm.settings import SwarmSettings
from cumulus.blob.base import BlobLimits
from cumulus.blob.s3.bucket import Bucket, bucket_of
from cumulus.errors import UsageError
from cumulus.lib import addresses
from cumulus.nodes.settings import SshSettings
from cumulus.resources.fields import check_label_key, check_label_value, check_name
from cumulus.resources.key import API_VERSION
from cumulus.resources.quantity import format_bytes, parse_bytes, parse_duration
from cumulus.server.config_file import ConfigFile, find

MOST_WORKERS = 64
LEAST_LOG, MOST_LOG = 64 * 2**10, 2**40
"""Bytes."""
LEAST_BLOB_RETENTION = 600.0
"""Seconds. Whoever found a blob has this long to name it in a job."""
LEAST_HISTORY, LEAST_SAMPLE_INTERVAL = 3600.0, 10.0
"""Seconds."""
_OFF = "off"
"""YAML takes the word for false, where it is not in quotes."""
N = TypeVar("N")
_HOST = re.compile(r"[A-Za-z0-9*][A-Za-z0-9.:_-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _version(value: Any) -> str:
    if value != API_VERSION:
        raise ValueError(f"must be {API_VERSION}")
    return API_VERSION


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return check_name(value)


def _texts(value: Any, example: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ValueError(f"must be a map of text to text; put numbers in quotes, as in {example}")
    return value


def _labels(value: Any) -> dict[str, str]:
    labels = _texts(value, 'rack: "7"')
    return {check_label_key(key): check_label_value(text) for key, text in labels.items()}


def _variables(value: Any) -> dict[str, str]:
    variables = _texts(value, 'OMP_NUM_THREADS: "4"')
    for name, text in variables.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a variable")
        if "\0" in text:
            raise ValueError(f"{name} holds a NUL character, which no program can be given")
    return variables


def _directories(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of directories, as in [/data, /scratch]")
    for path in value:
        if not isinstance(path, str) or os.path.normpath(path) != path or not re.fullmatch(r"/[^/].*", path):
            raise ValueError(f"{path!r} must be the whole path of a directory other than /, without '..' and '//'")
    return tuple(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _workers(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_WORKERS:
        raise ValueError(f"must be a whole number from 1 to {MOST_WORKERS}")
    return value


def _jobs(value: Any) -> int:
    if not (isinstance(value, str) and value.isascii() and value.isdecimal() and int(value) >= 1):
        # Said here: nothing above knows which variable it was.
        raise UsageError(
            f"{environment.MAX_CONCURRENT_JOBS} is {value!r}; it takes a whole number from 1 on",
            hint="unset it to let as many jobs run as find a place",
        )
    return int(value)


def _port(value: Any) -> int:
    if isinstance(value, int):
        return value
    if not (isinstance(value, str) and value.isascii() and value.isdecimal() and int(value) < 65536):
        raise UsageError(
            f"{environment.ORCHESTRATOR_PORT} is {value!r}; it takes the number of a port",
            hint="0 is any port that is free",
        )
    return int(value)


def _parsed(parse: Callable[[Any], N], value: Any) -> N:
    """Pydantic tells the file's place of a ValueError alone."""
    try:
        return parse(value)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _log_size(value: Any) -> int:
    size = _parsed(parse_bytes, value)
    if not LEAST_LOG <= size <= MOST_LOG:
        least, most = format_bytes(LEAST_LOG), format_bytes(MOST_LOG)
        raise ValueError(f"is {format_bytes(size)}; it is at least {least} and at most {most}")
    return size


def _blob_size(value: Any) -> int:
    size = _parsed(parse_bytes, value)
    if size < 2**20:
        raise ValueError(f"is {format_bytes(size)}; it is at least 1Mi")
    return size


def _blob_retention(value: Any) -> float:
    seconds = _parsed(parse_duration, value)
    if seconds < LEAST_BLOB_RETENTION:
        raise ValueError("is at least 10m: whoever uploaded a blob has so long to name it in a job")
    return seconds


def _history_retention(value: Any) -> float:
    seconds = _parsed(parse_duration, value)
    if seconds < LEAST_HISTORY:
        raise ValueError("is at least 1h")
    return seconds


def _sample_interval(value: Any) -> float:
    seconds = _parsed(parse_duration, value)
    if seconds < LEAST_SAMPLE_INTERVAL:
        raise ValueError("is at least 10s: a node is asked each time")
    return seconds


def _address(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be HOST:PORT, as 0.0.0.0:6443")
    return addresses.join(*addresses.split(value))


def _grpc_address(value: Any) -> str:
    return "" if value in (False, _OFF) else _address(value)


def _page_address(value: Any) -> str:
    if value in (False, _OFF):
        return ""
    found = _address(value)
    if not addresses.split(found)[0].startswith("127."):
        raise ValueError("the page is served without TLS on this machine alone: 127.0.0.1:PORT, or off")
    return found


def _host_names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a list of names and addresses")
    for each in value:
        if not _HOST.fullmatch(each):
            raise ValueError(f"{each!r} is neither a host's name nor an address")
    return tuple(value)


def _file(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be the path of a file")
    return os.path.abspath(os.path.expanduser(value)) if value else ""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeSettings(_Section):
    """This machine's GPUNode. Without a name the daemon takes the host's."""

    name: Annotated[str, BeforeValidator(_name)] = ""
    labels: Annotated[Mapping[str, str], BeforeValidator(_labels)] = {}


class ChronosSettings(_Section):
    offerCPU: Annotated[bool, BeforeValidator(_flag)] = False


class JobSettings(_Section):
    env: Annotated[Mapping[str, str], BeforeValidator(_variables)] = {}
    shared: Annotated[tuple[str, ...], BeforeValidator(_directories)] = ()
    """Directories that are the same on all nodes: a job without an image may start in them anywhere."""


class ContainerSettings(_Section):
    """What containers of those who are no admins may have of a node."""

    mounts: Annotated[tuple[str, ...], BeforeValidator(_directories)] = ()


class LogSettings(_Section):
    """Bytes that are kept of a replica's log."""

    first: Annotated[int, BeforeValidator(_log_size)] = DEFAULT_RETENTION.first
    last: Annotated[int, BeforeValidator(_log_size)] = DEFAULT_RETENTION.last

    @property
    def retention(self) -> LogRetention:
        return LogRetention(self.first, self.last)


class BlobSettings(_Section):
    """Where blobs are, and how many. Bytes and seconds."""

    directory: Annotated[str, BeforeValidator(_file)] = ""
    largest: Annotated[int, BeforeValidator(_blob_size)] = BlobLimits().largest
    limit: Annotated[int, BeforeValidator(_blob_size)] = BlobLimits().owner
    retention: Annotated[float, BeforeValidator(_blob_retention)] = 86400.0

    @property
    def limits(self) -> BlobLimits:
        return BlobLimits(self.largest, self.limit)


class HistorySettings(_Section):
    """What is remembered of leases, promises and use. Seconds."""

    retention: Annotated[float, BeforeValidator(_history_retention)] = 180 * 86400.0
    """How long what is over is kept."""
    every: Annotated[float, BeforeValidator(_sample_interval)] = 60.0
    """How often nodes are asked what their leases use."""


class ApiSettings(_Section):
    """Where the API listens over TLS, and with which certificates."""

    listen: Annotated[str, BeforeValidator(_address)] = "127.0.0.1:0"
    names: Annotated[tuple[str, ...], BeforeValidator(_host_names)] = ()
    tlsCert: Annotated[str, BeforeValidator(_file)] = ""
    tlsKey: Annotated[str, BeforeValidator(_file)] = ""
    clientCA: Annotated[str, BeforeValidator(_file)] = ""
    page: Annotated[str, BeforeValidator(_page_address)] = "127.0.0.1:0"
    """Where the page for browsers is served without TLS; "": nowhere."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; 0: one that is free."""
        return addresses.split(self.listen)


class GrpcSettings(_Section):
    """Where the gRPC server listens over TLS; "": there is none."""

    listen: Annotated[str, BeforeValidator(_grpc_address)] = "127.0.0.1:50051"


class FileSettings(_Section):
    """What the file may say."""

    apiVersion: Annotated[str, BeforeValidator(_version)] = API_VERSION
    node: NodeSettings = NodeSettings()
    chronos: ChronosSettings = ChronosSettings()
    workers: Annotated[int, BeforeValidator(_workers)] | None = None
    """Threads for each of the job and partition controllers; None: as many as are usual."""
    jobs: JobSettings = JobSettings()
    containers: ContainerSettings = ContainerSettings()
    logs: LogSettings = LogSettings()
    api: ApiSettings = ApiSettings()
    grpc: GrpcSettings = GrpcSettings()
    blobs: BlobSettings = BlobSettings()
    history: HistorySettings = HistorySettings()


class DaemonSettings(FileSettings, BaseSettings):
    """All that the daemon is told from outside. Made by `read`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", populate_by_name=True, env_ignore_empty=True)

    home: Path = Field(default_factory=paths.home)
    """The state directory."""
    system: bool = False
    """This is the system daemon, which serves every user of the machine."""
    config_file: str = Field("", validation_alias=environment.CONFIG)
    max_jobs: Annotated[int, BeforeValidator(_jobs)] | None = Field(
        None, validation_alias=environment.MAX_CONCURRENT_JOBS
    )
    """How many jobs run at once; None: as many as find a place."""
    grpc_port: Annotated[int, BeforeValidator(_port)] | None = Field(
        None, validation_alias=environment.ORCHESTRATOR_PORT
    )
    """In the place of the port in `grpc`."""
    swarm: SwarmSettings = Field(default_factory=SwarmSettings)
    ssh: SshSettings = Field(default_factory=SshSettings)
    bucket: Bucket | None = Field(default_factory=lambda: bucket_of(os.environ))
    """Where blobs and checkpoints are kept; None where no bucket is named."""
    environment: Mapping[str, str] = Field(default_factory=lambda: dict(os.environ))
    """The daemon's own, of which supervisors and jobs get a little."""

    @property
    def grpc_listen(self) -> str:
        """HOST:PORT; "" where no gRPC server is to run."""
        if not self.grpc.listen:
            return ""
        host, port = addresses.split(self.grpc.listen)
        return addresses.join(host, port if self.grpc_port is None else self.grpc_port)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Variables(settings_cls), _File(settings_cls)


class _Variables(EnvSettingsSource):
    """Only the variables that fields name: $HOME is not our state directory, nor $LOGS the section of the file."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        if field.validation_alias is None:
            return None, field_name, False
        return super().get_field_value(field, field_name)


class _File(PydanticBaseSettingsSource):
    """The configuration file that a flag or the environment names, or the one that is found."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        flags = self.settings_sources_data[InitSettingsSource.__name__]
        source = "--config" if environment.CONFIG in flags else environment.CONFIG
        path = find(self.current_state.get(environment.CONFIG, ""), source)
        if path is None:
            return {}
        file = ConfigFile(path)
        values = file.values
        try:
            found = FileSettings.model_validate(values)
        except ValidationError as error:
            raise _at_its_place(file, error) from None
        # A flag may say one key of `api`, and the file the others.
        given = {name: getattr(found, name) for name in found.model_fields_set}
        return given | ({"api": found.api.model_dump(exclude_unset=True)} if "api" in given else {})


def _at_its_place(file: ConfigFile, error: ValidationError) -> UsageError:
    problem = error.errors(include_url=False)[0]
    keys = [str(key) for key in problem["loc"] if not str(key).startswith("function-")]
    if problem["type"] == "extra_forbidden":
        section = FileSettings.model_fields[keys[0]].annotation if len(keys) > 1 else FileSettings
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        return file.unknown(keys, tuple(section.model_fields))
    if problem["type"] == "value_error":
        return file.wrong(keys, str(problem["ctx"]["error"]))
    return file.wrong(keys, "must be a map of keys to values")


def read(
    *, home: str = "", config_file: str = "", workers: str = "", listen: str = "", tls_cert: str = "",
    tls_key: str = "", client_ca: str = "", grpc_listen: str = "", system: bool = False,
) -> DaemonSettings:  # fmt: skip
    """The settings of this process, with the flags that are given ("": not given).

    Raises UsageError, which names the flag, or the file with line and column, and says what would be right."""
    if system and os.geteuid() != 0:
        raise UsageError(
            "--system serves every user of the machine, and needs root for that",
            hint="as root: cumulus serve --system; for yourself alone: cumulus serve",
        )
    flags: dict[str, Any] = {"home": Path(paths.home_text(home)), "system": system}
    if config_file:
        flags[environment.CONFIG] = config_file
    if workers:
        if not (workers.isdecimal() and 1 <= int(workers) <= MOST_WORKERS):
            raise UsageError(f"--workers takes a number from 1 to {MOST_WORKERS}, not {workers!r}")
        flags["workers"] = int(workers)
    if listen:
        listen = _given_address("--listen", listen)
    api = {"listen": listen, "tlsCert": tls_cert, "tlsKey": tls_key, "clientCA": client_ca}
    if given := {name: text for name, text in api.items() if text}:
        flags["api"] = given
    if grpc_listen == _OFF:
        flags["grpc"] = {"listen": _OFF}
    elif grpc_listen:
        grpc_listen = _given_address("--grpc-listen", grpc_listen)
        # It wins over the variable too.
        flags |= {"grpc": {"listen": grpc_listen}, environment.ORCHESTRATOR_PORT: addresses.split(grpc_listen)[1]}
    settings = DaemonSettings(**flags)
    if bool(settings.api.tlsCert) != bool(settings.api.tlsKey):
        raise UsageError(
            "a certificate and its key are given together",
            hint="--tls-cert FILE --tls-key FILE, or api.tlsCert and api.tlsKey",
        )
    return settings


def _given_address(flag: str, text: str) -> str:
    try:
        return _address(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: {error}") from None
