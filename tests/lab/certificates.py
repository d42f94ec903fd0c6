"""A certificate authority for one lab, and what it vouches for: its engines, and a client."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def make(directory: Path, addresses: Sequence[str]) -> None:
    """Below `directory`: `tls` as DOCKER_CERT_PATH has it, `stranger` the same by an authority that nobody trusts."""
    place = directory / "tls"
    _authority(place)
    names = ",".join(f"IP:{address}" for address in addresses)
    _vouch(place, "server", f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    _vouch(place, "", "extendedKeyUsage=clientAuth\n")
    _authority(directory / "stranger")
    _vouch(directory / "stranger", "", "extendedKeyUsage=clientAuth\n")


def server(directory: Path) -> Sequence[str]:
    """Words for dockerd."""
    place = directory / "tls"
    return (
        "--tlsverify", f"--tlscacert={place}/ca.pem", f"--tlscert={place}/server-cert.pem",
        f"--tlskey={place}/server-key.pem",
    )  # fmt: skip


def _authority(place: Path) -> None:
    place.mkdir()
    _openssl(
        "req", "-x509", *_NEW_KEY, "-days=2", "-subj=/CN=lab", f"-keyout={place}/ca-key.pem", f"-out={place}/ca.pem"
    )


def _vouch(place: Path, name: str, extensions: str) -> None:
    prefix = f"{name}-" if name else ""
    (place / "extensions").write_text(extensions)
    request = place / "request"
    _openssl("req", *_NEW_KEY, f"-subj=/CN={name or 'client'}", f"-keyout={place}/{prefix}key.pem", f"-out={request}")
    _openssl(
        "x509", "-req", f"-in={request}", f"-CA={place}/ca.pem", f"-CAkey={place}/ca-key.pem", "-CAcreateserial",
        "-days=2", f"-extfile={place}/extensions", f"-out={place}/{prefix}cert.pem",
    )  # fmt: skip


_NEW_KEY = ("-newkey=ec", "-pkeyopt=ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: str) -> None:
    """`-option=value` is two words to openssl."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("-") else [word])]
    subprocess.run(["openssl", *split], check=True, capture_output=True)
