"""The network between the client and a real service, and what stands behind the service, fail."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from api.harness import Service, csv_of, make_codes, token
from api.proxy import Proxy
from api.world import World
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from codesvc.client import (
    CannotConnectError,
    Change,
    Client,
    NoReplyError,
    NotCodesvcError,
    NotFoundError,
    RetryPolicy,
    UnauthorizedError,
    UploadState,
)

from .conftest import QUICK, Connect


async def test_a_reserve_whose_reply_is_lost_is_not_made_twice(
    connect: Connect, proxy: Proxy, world: World, campaign: str
) -> None:
    """What was held stays held and is told as such; the next reserve is the caller's decision."""
    world.stock(campaign, make_codes(10))
    async with connect(proxy.port) as client:
        arrived = proxy.stall_after(1)
        call = asyncio.ensure_future(client.reserve(campaign, "tm", 3))
        assert await asyncio.to_thread(arrived.wait, 10)
        proxy.cut()
        with pytest.raises(NoReplyError) as lost:
            await call
        assert lost.value.may_have_taken_effect
        proxy.resume()
        assert world.service.count(campaign) == {"available": 7, "reserved": 3, "assigned": 0}
        again = await client.reserve(campaign, "tm", 10)
    assert len(again.codes) == 7


async def test_a_reserve_whose_reply_is_lost_is_sent_again_under_its_key(
    connect: Connect, proxy: Proxy, world: World, campaign: str
) -> None:
    world.stock(campaign, make_codes(10))
    async with connect(proxy.port, idempotency=True) as client:
        arrived = proxy.stall_after(1)
        call = asyncio.ensure_future(client.reserve(campaign, "tm", 3))
        assert await asyncio.to_thread(arrived.wait, 10)
        proxy.cut()
        proxy.resume()
        assert len((await call).codes) == 3
    assert world.service.count(campaign) == {"available": 7, "reserved": 3, "assigned": 0}


async def test_an_assign_whose_reply_is_lost_is_sent_again(
    connect: Connect, proxy: Proxy, world: World, campaign: str
) -> None:
    codes = make_codes(3)
    world.stock(campaign, codes)
    async with connect(proxy.port) as client:
        arrived = proxy.stall_after(1)
        call = asyncio.ensure_future(client.assign(campaign, codes))
        assert await asyncio.to_thread(arrived.wait, 10)
        proxy.cut()
        proxy.resume()
        assert await call == Change(total=3, updated=3, exact=True)
    assert world.service.count(campaign) == {"available": 0, "reserved": 0, "assigned": 3}


async def test_an_upload_whose_reply_is_lost(
    connect: Connect, proxy: Proxy, world: World, campaign: str
) -> None:
    codes = make_codes(100)
    key = world.put(campaign, csv_of(codes))
    async with connect(proxy.port) as client:
        arrived = proxy.stall_after(1)
        call = asyncio.ensure_future(client.upload(key))
        assert await asyncio.to_thread(arrived.wait, 10)
        proxy.cut()
        proxy.resume()
        upload = await call
    assert (upload.state, upload.counts.total, upload.exact) == (UploadState.SUCCEEDED, 100, True)
    assert world.stored(campaign) == set(codes)


async def test_a_service_behind_a_wrong_path(service: Service) -> None:
    async with Client(f"http://127.0.0.1:{service.port}/nothing", token=service.token) as client:
        with pytest.raises(NotFoundError) as missing:
            await client.count("c", "tm")
    assert missing.value.code == "notFound"


async def test_another_service_at_the_address(connect: Connect, s3_endpoint: str, campaign: str) -> None:
    """An S3 endpoint is as wrong as can be: it answers, in XML."""
    async with connect(int(s3_endpoint.rpartition(":")[2])) as client:
        with pytest.raises((NotCodesvcError, NotFoundError)) as refused:
            await client.count(campaign, "tm")
    assert "codesvc" in str(refused.value)


async def test_a_host_that_nobody_knows(connect: Connect) -> None:
    async with Client("http://codesvc.invalid:8080", retries=RetryPolicy(tries=1)) as client:
        with pytest.raises(CannotConnectError, match=r"codesvc\.invalid:8080 is not known"):
            await client.count("c", "tm")


async def test_tokens_run_out_while_a_client_lives(connect: Connect, campaign: str) -> None:
    tokens = [token(exp=1), token()]
    async with connect(token=lambda: tokens.pop(0) if len(tokens) > 1 else tokens[0]) as client:
        await client.count(campaign, "tm")
    async with connect(token=token(exp=1)) as client:
        with pytest.raises(UnauthorizedError, match="expired"):
            await client.count(campaign, "tm")


async def test_tls_to_a_port_without_it(connect: Connect, world: World) -> None:
    async with Client(f"https://127.0.0.1:{world.service.port}", retries=QUICK) as client:
        with pytest.raises(CannotConnectError, match="is it http:// rather than https://") as refused:
            await client.count("c", "tm")
    assert not refused.value.transient


async def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    chain = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)

    async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(nobody, "127.0.0.1", 0, ssl=context)
    async with (
        server,
        Client(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", retries=QUICK) as client,
    ):
        with pytest.raises(
            CannotConnectError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted: self"
        ) as refused:
            await client.count("c", "tm")
    assert not refused.value.transient


def self_signed(directory: Path) -> Path:
    """Make a key and a certificate of 127.0.0.1 that nobody else has signed; return the file that holds both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = directory / "chain.pem"
    file.write_bytes(key.private_bytes(*form) + certificate.public_bytes(Encoding.PEM))
    return file
