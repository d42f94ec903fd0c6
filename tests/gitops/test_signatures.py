"""Signed commits and tags: git's exit code says whether they are good, and nothing else does."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulus.secrets import JobSecrets
from tests.gitops.cluster import Cluster, Repo, job

HOLD = {"suspend": "true"}


class Signer:
    def __init__(self, place: Path, name: str) -> None:
        self.key = place / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@example.org", "-f", self.key], check=True
        )

    def allowed(self, principal: str, options: str = "") -> str:
        type, key, *_ = self.key.with_suffix(".pub").read_text().split()
        return f"{principal} {options}{' ' if options else ''}{type} {key}\n"

    def commit(self, repo: Repo, files: dict[str, str | None]) -> str:
        repo.git("config", "gpg.format", "ssh")
        repo.git("config", "user.signingKey", str(self.key))
        return repo.commit(files, "signed", "-S")


@pytest.fixture
def ada(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "ada")


def demands(cluster: Cluster, repo: Repo, keys: str, **more: str) -> None:
    JobSecrets(cluster.home / "job-secrets").of("default").set("signers", "allowed_signers", keys)
    cluster.add(url=repo.url, verify={"keys": "signers", **more}, prune="Auto")
    cluster.sync()


def refused(cluster: Cluster) -> bool:
    return cluster.condition("Ready") == ("False", "NotVerified") and cluster.names() == []


def test_a_good_signature_is_taken_and_told(cluster: Cluster, repo: Repo, ada: Signer) -> None:
    ada.commit(repo, {"a.yaml": job("a", **HOLD)})
    demands(cluster, repo, ada.allowed("ada@example.org"))
    assert cluster.names() == ["a"]
    synced = cluster.source().status.synced
    assert synced is not None
    assert synced.signature == "Verified"
    # What comes unsigned later deletes nothing, and changes nothing.
    repo.commit({"a.yaml": None, "b.yaml": job("b", **HOLD)})
    cluster.sync()
    assert cluster.condition("Ready") == ("False", "NotVerified")
    assert cluster.names() == ["a"]
    ada.commit(repo, {})
    cluster.sync()
    assert cluster.condition("Ready") == ("True", "Fetched")


def test_an_unsigned_commit(cluster: Cluster, repo: Repo, ada: Signer) -> None:
    repo.commit({"a.yaml": job("a", **HOLD)})
    demands(cluster, repo, ada.allowed("ada@example.org"))
    assert refused(cluster)


def test_another_key(cluster: Cluster, repo: Repo, ada: Signer, tmp_path: Path) -> None:
    Signer(tmp_path, "eve").commit(repo, {"a.yaml": job("a", **HOLD)})
    demands(cluster, repo, ada.allowed("ada@example.org"))
    assert refused(cluster)


@pytest.mark.parametrize("options", ['valid-before="20200101"', 'namespaces="file"'])
def test_the_right_key_that_may_not_sign_this(cluster: Cluster, repo: Repo, ada: Signer, options: str) -> None:
    ada.commit(repo, {"a.yaml": job("a", **HOLD)})
    demands(cluster, repo, ada.allowed("ada@example.org", options))
    assert refused(cluster)


@pytest.mark.parametrize(("principal", "good"), [("ada@example.org", True), ("ada@elsewhere.org", False)])
def test_a_certificate_of_somebody_elses(
    cluster: Cluster, repo: Repo, ada: Signer, tmp_path: Path, principal: str, good: bool
) -> None:
    # The right key, signed by the right authority: git says good of it whoever it is for, and its exit code tells.
    authority = Signer(tmp_path, "authority")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", authority.key, "-I", "ada", "-n", principal, ada.key.with_suffix(".pub")], check=True
    )
    ada.key = ada.key.with_name("ada-cert.pub")
    ada.commit(repo, {"a.yaml": job("a", **HOLD)})
    demands(cluster, repo, authority.allowed("*@example.org", "cert-authority"))
    assert refused(cluster) is not good
    assert cluster.names() == (["a"] if good else [])


def test_no_keys_at_all(cluster: Cluster, repo: Repo, ada: Signer) -> None:
    ada.commit(repo, {"a.yaml": job("a", **HOLD)})
    demands(cluster, repo, "\n")
    assert refused(cluster)
    cluster.change(verify={"keys": "nothing"})
    cluster.sync()
    assert cluster.condition("Ready") == ("False", "CredentialsUnusable")


def test_a_signed_tag(cluster: Cluster, repo: Repo, ada: Signer) -> None:
    repo.commit({"a.yaml": job("a", **HOLD)})
    repo.git("config", "gpg.format", "ssh")
    repo.git("config", "user.signingKey", str(ada.key))
    repo.git("tag", "-s", "-m", "one", "v1")
    repo.git("tag", "-m", "two", "v2")
    JobSecrets(cluster.home / "job-secrets").of("default").set("signers", "allowed_signers", ada.allowed("ada"))
    cluster.add(url=repo.url, tag="v2", verify={"keys": "signers", "object": "Tag"})
    cluster.sync()
    assert refused(cluster)
    cluster.change(git={"tag": "v1"})
    cluster.sync()
    assert cluster.names() == ["a"]


class Gpg:
    """A home of gpg's with one key, by Debian's gpg."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name = home, f"{name}@example.org"
        home.mkdir(mode=0o700)
        self.environment = {"GNUPGHOME": str(home), "PATH": "/usr/bin:/bin"}
        self("--passphrase", "", "--quick-generate-key", self.name, "ed25519", "sign", "never")
        self.public = self("--armor", "--export").decode()

    def __call__(self, *arguments: str, given: bytes = b"") -> bytes:
        return subprocess.run(
            ["gpg", "--batch", "--quiet", *arguments],
            env=self.environment,
            input=given,
            capture_output=True,
            check=True,
        ).stdout

    def commit(self, repo: Repo, name: str) -> None:
        (repo.path / f"{name}.yaml").write_text(job(name, **HOLD))
        repo.git("add", "-A")
        repo.git("config", "user.signingKey", self.name)
        repo.git("commit", "-q", "-S", "-m", "signed", GNUPGHOME=str(self.home))

    def revoked(self) -> str:
        """The key as exported after it was revoked: gpg keeps a certificate for that beside each new key."""
        (certificate,) = (self.home / "openpgp-revocs.d").glob("*.rev")
        self("--import", given=certificate.read_text().replace(":-----BEGIN", "-----BEGIN").encode())
        return self("--armor", "--export").decode()

    def close(self) -> None:
        subprocess.run(["gpgconf", "--kill", "all"], env=self.environment, check=False)


@pytest.fixture
def gpg(tmp_path: Path) -> Iterator[Callable[[str], Gpg]]:
    if shutil.which("gpg") is None:
        pytest.skip("NOT TESTED: gpg is not installed")
    made: list[Gpg] = []
    # Its agent's socket needs a short path.
    with tempfile.TemporaryDirectory(prefix="gpg-") as short:

        def make(name: str) -> Gpg:
            made.append(Gpg(Path(short) / name, name))
            return made[-1]

        yield make
        for each in made:
            each.close()


def test_gpg(cluster: Cluster, repo: Repo, gpg: Callable[[str], Gpg]) -> None:
    ada, eve = gpg("ada"), gpg("eve")
    ada.commit(repo, "a")
    signers = JobSecrets(cluster.home / "job-secrets").of("default")
    signers.set("signers", "gpg-keys", ada.public)
    cluster.add(url=repo.url, verify={"keys": "signers"})
    cluster.sync()
    assert cluster.names() == ["a"]
    synced = cluster.source().status.synced
    assert synced is not None
    assert synced.signature == "Verified"
    # Nobody's signature, and that of a good key which nobody named.
    repo.commit({"b.yaml": job("b", **HOLD)})
    cluster.sync()
    assert cluster.condition("Ready") == ("False", "NotVerified")
    eve.commit(repo, "c")
    cluster.sync()
    assert cluster.condition("Ready") == ("False", "NotVerified")
    assert cluster.names() == ["a"]
    # A keyring of two.
    signers.set("signers", "gpg-keys", ada.public + eve.public)
    cluster.sync(seconds=120)
    ada.commit(repo, "d")
    cluster.sync()
    assert cluster.names() == ["a", "b", "c", "d"]
    # What was a good key once is none after it was revoked.
    ada.commit(repo, "e")
    signers.set("signers", "gpg-keys", ada.revoked())
    cluster.sync()
    assert cluster.condition("Ready") == ("False", "NotVerified")
    assert "e" not in cluster.names()
