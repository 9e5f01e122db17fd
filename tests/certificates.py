"""Certificate authorities and certificates for tests, made with the `cryptography` package."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pcloud.wire.gnutls import Credentials


def authority(folder: Path, *names: str) -> Path:
    """Make an authority (`ca.crt`) and a certificate (`NAME.crt`, `NAME.key`) of it for each name; return their folder."""
    folder.mkdir()
    keys = {who: ec.generate_private_key(ec.SECP256R1()) for who in ("ca", *names)}
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
    now = datetime.datetime.now(datetime.UTC)
    for who, key in keys.items():
        subject = issuer if who == "ca" else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=who == "ca", path_length=None), critical=True)
            .sign(keys["ca"], hashes.SHA256())
        )
        (folder / f"{who}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / f"{who}.key").write_bytes(key.private_bytes(*pem))
    return folder


def credentials(folder: Path, who: str, *, ca: Path | None = None, server: bool = False) -> Credentials:
    """Return TLS credentials of a certificate; they trust the authority of its folder, or of the folder `ca`."""
    paths = {"certificate": str(folder / f"{who}.crt"), "key": str(folder / f"{who}.key")}
    return Credentials.x509(server=server, ca=str((ca or folder) / "ca.crt"), **paths)
