"""TLS, in a process of its own: grpc reads its trusted roots once."""

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loramux.account.v1 import account_pb2
from tests.support.scripted_gateway import ScriptedGateway


def self_signed(host: str) -> tuple[bytes, bytes]:
    """Private key and certificate, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)


@pytest.mark.parametrize(
    ("make", "host", "outcome"),
    [
        ("SyncClient", "https://localhost", "acme"),
        ("Client", "https://localhost", "acme"),
        ("SyncClient", "https://127.0.0.1", "refused"),
        ("SyncClient", "http://localhost", "refused"),
    ],
)
def test_an_https_target_speaks_tls_and_checks_the_name(
    tmp_path: Path, make: str, host: str, outcome: str
) -> None:
    key, certificate = self_signed("localhost")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificate)
    code = (
        "import asyncio, sys, loramux\n"
        "from loramux import errors\n"
        f"client = loramux.{make}(sys.argv[1], 'lmx_a')\n"
        "async def use():\n"
        "    account = client.get_account()\n"
        "    return await account if asyncio.iscoroutine(account) else account\n"
        "try:\n"
        "    print(asyncio.run(use()).name)\n"
        "except errors.UnavailableError:\n"
        "    print('refused')\n"
    )
    with ScriptedGateway(grpc.ssl_server_credentials([(key, certificate)])) as gateway:
        gateway.on("GetAccount", [account_pb2.GetAccountResponse(account={"name": "acme"})])
        port = gateway.target.rpartition(":")[2]
        result = subprocess.run(
            [sys.executable, "-c", code, f"{host}:{port}"],
            env={**os.environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert result.stdout.strip() == outcome
