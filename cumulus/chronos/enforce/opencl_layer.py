"""The OpenCL layer as an enforcer: finds the built library and loads it into jobs through OPENCL_LAYERS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus.chronos.contract import Device, Health, Lease
from cumulus.chronos.contract.variables import ACCOUNT, OPENCL_LAYER, OPENCL_LAYERS
from cumulus.chronos.enforce import account, loader
from cumulus.chronos.enforce.base import EnforcementReport
from cumulus.chronos.enforce.library import PLACES, Library
from cumulus.chronos.settings import LocalSettings
from cumulus.errors import LedgerUnavailable
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.reasons import EnforcementReason, NodeCondition

LIBRARY = Library("OpenCL layer", "libchronos_opencl_layer.so", "clInitLayer", OPENCL_LAYER)


class OpenClLayer:
    """Counts and refuses OpenCL memory over the lease, in all of its processes together; refuses work after its end.

    Guarded and never hard: a job that unsets OPENCL_LAYERS, or calls the driver without the loader, is not seen. Where
    programs get a loader that knows no layers and there is one that does, LD_LIBRARY_PATH gives them that.
    """

    name = "opencl-layer"
    way = "OpenCL"

    def covers(self, device: Device) -> bool:
        """OpenCL reaches every device: also a GPU whose driver is not registered, since a job can register it."""
        return True

    def strength(self, device: Device, home: Path) -> EnforcementReport:
        library, problem = find()
        if library is None:
            return EnforcementReport(Enforcement.NONE, problem, LIBRARY.remedy)
        if problem := loader.problem(loader.loaders()):
            return EnforcementReport(Enforcement.NONE, problem, loader.REMEDY)
        return EnforcementReport(Enforcement.GUARDED, "OpenCL memory is counted over the lease's processes")

    def environment(self, lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
        # Without the library too: by the account a program knows when its lease ends, also where that changes.
        place = account.open_account(lease, device, home, user=user)
        variables = {ACCOUNT: str(place)}
        library, _ = find()
        if library is None:
            return variables
        variables[OPENCL_LAYERS] = str(LIBRARY.shown(library, place, user))
        if better := loader.better_loader(loader.loaders()):
            variables["LD_LIBRARY_PATH"] = str(_alone(better, place))
        return variables

    def update(self, lease: Lease, home: Path) -> None:
        account.update(lease, home)

    def forget(self, lease_id: str, home: Path) -> None:
        account.close_account(lease_id, home)

    def health(self, devices: Sequence[Device], home: Path) -> Sequence[Health]:
        library, problem = find()
        if library is None:
            return _layer(False, EnforcementReason.NOT_BUILT, f"{problem}. {LIBRARY.remedy}")
        if problem := loader.problem(loader.loaders()):
            return _layer(False, EnforcementReason.LOADER_WITHOUT_LAYERS, f"{problem}. {loader.REMEDY}")
        return _layer(True, EnforcementReason.FOUND, str(library))


def _layer(status: bool, reason: EnforcementReason, message: str) -> Sequence[Health]:
    return (Health(NodeCondition.OPENCL_LAYER, status, reason, message),)


def preload() -> None:
    """Ask for the loaders, which each job needs to know of where the library is built."""
    if any((place / LIBRARY.file).is_file() for place in PLACES):
        loader.loaders()


def find() -> tuple[Path | None, str]:
    """The library, or None and why."""
    return LIBRARY.find(LocalSettings.read().opencl_layer)


def _alone(library: Path, place: Path) -> Path:
    """A directory that holds nothing but a link to the loader, so that nothing else comes from where it is."""
    directory = place / "loader"
    try:
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        link = directory / loader.NAME
        if not link.is_symlink():
            link.symlink_to(library)
    except OSError as error:
        raise LedgerUnavailable(f"{directory}: {error.strerror}") from error
    return directory
