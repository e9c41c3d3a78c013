"""An authority for a ring on one machine, and certificates of it, as PEM files.

For trying things out and for tests: the authority's key lies beside the certificates that it signs. A ring
on several machines gets its certificates from whoever keeps its authority (docs/security.md).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fortdb.errors import ConfigError

_YEARS = datetime.timedelta(days=3650)
_BACK = datetime.timedelta(hours=1)  # clocks differ


class Authority:
    """Makes `ca.pem`, and `<name>.pem` with `<name>.key` for each process."""

    def __init__(self, directory: Path, name: str = "FortDB local ring") -> None:
        """Uses the authority that the directory has, or makes one. Raises `ConfigError` without
        `cryptography`."""
        self.directory = directory
        self.ca = directory / "ca.pem"
        x509, serialization, ec = _cryptography()
        key_path = directory / "ca.key"
        if self.ca.exists():
            self._certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
            self._key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            return
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        usage = {"key_cert_sign": True, "crl_sign": True}
        builder = _builder(x509, subject, subject, self._key.public_key(), now - _BACK, now + _YEARS)
        self._certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**{**_NO_USAGE, **usage}), critical=True)
            .sign(self._key, _hash())
        )
        _write(key_path, _pem_of_key(self._key), 0o600)
        _write(self.ca, self._certificate.public_bytes(serialization.Encoding.PEM), 0o644)

    def issue(
        self,
        name: str,
        others: Sequence[str] = (),
        *,
        file: str = "",
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
    ) -> tuple[Path, Path]:
        """A certificate for a process, which clients also know by `others`: DNS names and addresses. Returns the
        paths of the certificate and of its key."""
        x509, serialization, ec = _cryptography()
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = _builder(
            x509,
            subject,
            self._certificate.subject,
            key.public_key(),
            not_before or now - _BACK,
            not_after or now + _YEARS,
        )
        certificate = (
            builder.add_extension(
                x509.SubjectAlternativeName([_general_name(x509, text) for text in (name, *others)]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, _hash())
        )
        cert_path = self.directory / f"{file or name}.pem"
        key_path = self.directory / f"{file or name}.key"
        _write(key_path, _pem_of_key(key), 0o600)
        _write(cert_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return cert_path, key_path


_NO_USAGE = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise ConfigError("making certificates needs cryptography: pip install 'fortdb[tls]'") from None
    return x509, serialization, ec


def _hash() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def _builder(x509: Any, subject: Any, issuer: Any, public_key: Any, since: Any, until: Any) -> Any:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _general_name(x509: Any, text: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem_of_key(key: Any) -> bytes:
    _, serialization, _ = _cryptography()
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem


def _write(path: Path, data: bytes, mode: int) -> None:
    """In one step, so that whoever looks sees the former file or this one."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    beside.replace(path)
