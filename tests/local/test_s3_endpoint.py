"""The embedded S3 endpoint: what the service needs of S3, and objects that survive its process."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from codesvc.local.process import LocalStackError, ProcessDiedError
from codesvc.local.s3 import S3Endpoint

KEY = "codes/12345/tm/grüße 1.csv"
CONTENT = b"ABC,1\nDEF,2\n" * 1000


@pytest.fixture
def own(tmp_path: Path) -> Iterator[S3Endpoint]:
    """An endpoint that a test may stop and kill."""
    endpoint = S3Endpoint(tmp_path / "s3.log", directory=tmp_path / "s3")
    endpoint.start()
    yield endpoint
    endpoint.kill()


def status_of(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def test_a_range_under_an_etag(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key=KEY, Body=CONTENT)["ETag"]
    reply = s3.get_object(Bucket=bucket, Key=KEY, Range="bytes=5-14", IfMatch=etag)
    assert reply["Body"].read() == CONTENT[5:15]
    assert reply["ContentRange"] == f"bytes 5-14/{len(CONTENT)}"
    assert reply["ETag"] == etag


def test_another_etag_is_412(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key=KEY, Body=CONTENT)["ETag"]
    s3.put_object(Bucket=bucket, Key=KEY, Body=CONTENT + b"more")
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key=KEY, IfMatch=etag)
    assert status_of(caught.value) == 412


def test_a_missing_key_is_404(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="none")
    assert status_of(caught.value) == 404


def test_a_range_past_the_end_is_416(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key=KEY, Body=b"")
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key=KEY, Range="bytes=0-99")
    assert status_of(caught.value) == 416


def test_objects_survive_a_stop(own: S3Endpoint) -> None:
    own.ensure_bucket("kept")
    with closing(own.client()) as client:
        put = client.put_object(
            Bucket="kept", Key=KEY, Body=CONTENT, ContentType="text/csv", Metadata={"a": "b"}
        )
        client.put_object(Bucket="kept", Key="gone", Body=b"x")
        client.delete_object(Bucket="kept", Key="gone")
        modified = client.head_object(Bucket="kept", Key=KEY)["LastModified"]
    assert own.stop() == 0
    own.start()
    own.ensure_bucket("kept")
    with closing(own.client()) as client:
        reply = client.get_object(Bucket="kept", Key=KEY)
        assert reply["Body"].read() == CONTENT
        assert [entry["Key"] for entry in client.list_objects_v2(Bucket="kept")["Contents"]] == [KEY]
    assert (reply["ETag"], reply["LastModified"]) == (put["ETag"], modified)
    assert (reply["ContentType"], reply["Metadata"]) == ("text/csv", {"a": "b"})


def test_an_object_of_many_parts_keeps_its_etag(own: S3Endpoint) -> None:
    own.ensure_bucket("kept")
    part = b"x" * (5 << 20)
    with closing(own.client()) as client:
        target: dict[str, Any] = {"Bucket": "kept", "Key": KEY}
        upload = client.create_multipart_upload(**target)["UploadId"]
        parts = [
            {
                "PartNumber": number,
                "ETag": client.upload_part(**target, UploadId=upload, PartNumber=number, Body=part)["ETag"],
            }
            for number in (1, 2)
        ]
        etag = client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})[
            "ETag"
        ]
    own.stop()
    own.start()
    with closing(own.client()) as client:
        assert client.head_object(Bucket="kept", Key=KEY)["ETag"] == etag


def test_objects_survive_a_crash_a_little_later(own: S3Endpoint) -> None:
    own.ensure_bucket("kept")
    with closing(own.client()) as client:
        client.put_object(Bucket="kept", Key=KEY, Body=CONTENT)
    assert own.directory is not None
    index = own.directory / "index.json"
    while not index.exists() or KEY not in json.loads(index.read_bytes())["kept"]:
        own.check()
        time.sleep(0.05)
    own.kill()
    with pytest.raises(ProcessDiedError, match="S3 ended by SIGKILL"):
        own.check()
    own.start()
    with closing(own.client()) as client:
        assert client.get_object(Bucket="kept", Key=KEY)["Body"].read() == CONTENT


def test_a_port_in_use_is_named(tmp_path: Path, own: S3Endpoint) -> None:
    with pytest.raises(LocalStackError, match=f"^port {own.port} for S3 is in use$"):
        S3Endpoint(tmp_path / "other.log", port=own.port).start()
