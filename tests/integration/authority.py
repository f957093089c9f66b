"""An authority that issues certificates for tests, into files."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


class Authority:
    """Its certificate is FOLDER/NAME.crt; what it issues stands beside it."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.crt"
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        self._write(self.file, builder.sign(self._key, hashes.SHA256()))

    def issue(self, stem: str, *numbers: str, past: bool = False) -> tuple[Path, Path]:
        """The files of a certificate for these IP addresses and its key, replaced one by one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)])
        names = [x509.IPAddress(ipaddress.ip_address(number)) for number in numbers]
        builder = self._builder(subject, key, past=past).add_extension(
            x509.SubjectAlternativeName(names or [x509.DNSName(stem)]), critical=False
        )
        certificate, private = self._folder / f"{stem}.crt", self._folder / f"{stem}.key"
        self._write(certificate, builder.sign(self._key, hashes.SHA256()))
        self._replace(
            private,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
        return certificate, private

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, past: bool = False
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc) - (2 * _DAY if past else 0 * _DAY)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )

    def _write(self, path: Path, certificate: x509.Certificate) -> None:
        self._replace(path, certificate.public_bytes(serialization.Encoding.PEM))

    def _replace(self, path: Path, content: bytes) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)
