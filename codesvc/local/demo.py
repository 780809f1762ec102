"""What `codesvc dev` shows: an upload with its progress, the counts, a reserve, an assign and a release."""

import http.client
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from codesvc.local.codefile import write_codes
from codesvc.local.process import LocalStackError
from codesvc.local.stack import BUCKET, Stack
from codesvc.progress import UploadProgress

CAMPAIGN: Final = "summer-sale"
CODE_TYPE: Final = "tm"

_RESERVED: Final = 5
_POLL_SECONDS: Final = 0.2
_REPLY_SECONDS: Final = 60.0


class DemoError(LocalStackError):
    """A step of the demonstration did not come out as it should; the message is one line."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply and how long it took."""

    body: dict[str, Any]
    seconds: float


class Api:
    """The running API as a caller sees it."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self.token = token
        self._host, _, port = url.removeprefix("http://").rpartition(":")
        self._port = int(port)

    def call(
        self, method: str, path: str, body: object = None, *, limit: float | None = _REPLY_SECONDS
    ) -> Reply:
        """Send one request and return the reply; raise DemoError unless it is 200."""
        started = time.monotonic()
        status, content = self._exchange(method, path, body, limit)
        seconds = time.monotonic() - started
        try:
            parsed = json.loads(content)
        except ValueError:
            parsed = {}
        if status != http.HTTPStatus.OK or not isinstance(parsed, dict):
            told = (
                f" {parsed.get('code', '')}: {parsed.get('detail', '')}" if isinstance(parsed, dict) else ""
            )
            raise DemoError(f"{method} {path} was answered with {status}{told}")
        return Reply(parsed, seconds)

    def uploaded(self) -> tuple[int, int]:
        """Return the codes stored and the bytes read by uploads since the process started, from /metrics."""
        _, content = self._exchange("GET", "/metrics", None, _REPLY_SECONDS)
        text = content.decode()
        stored = _total(text, r'upload_codes_total\{[^}]*outcome="(?:inserted|updated)"[^}]*\}')
        return stored, _total(text, r"upload_bytes_total(?:\{[^}]*\})?")

    def _exchange(self, method: str, path: str, body: object, limit: float | None) -> tuple[int, bytes]:
        headers = {"Accept": "*/*"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body)
        connection = http.client.HTTPConnection(self._host, self._port, timeout=limit)
        try:
            connection.request(method, path, body=content, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"{method} {path} was not answered: {type(error).__name__}") from None
        finally:
            connection.close()


def demonstrate(stack: Stack, console: Console, *, codes: int) -> None:
    """Load ``codes`` generated codes through the API unless they are there, then walk through a code's life.

    Raises:
        LocalStackError: a process of the stack died, or a step failed.

    """
    api = Api(stack.url)
    api.token = str(api.call("GET", "/dev/token").body["token"])
    file_key = f"codes/{CAMPAIGN}/{CODE_TYPE}/{codes}-codes.csv"
    counts = f"/v1/{CAMPAIGN}/codes/count?type={CODE_TYPE}"

    console.rule(f"{codes:,} codes of the campaign {CAMPAIGN}", align="left")
    size = _put_file(stack, console, key=file_key, codes=codes)
    found = sum(api.call("GET", counts).body.values())
    if found < codes:
        _upload(stack, console, api, file_key=file_key, size=size, codes=codes)
    else:
        console.print(f"  {found:,} codes of an earlier run are here already: nothing to upload")
    reply = api.call("GET", counts)
    _step(console, "count", reply, _amounts(reply.body))

    console.rule("The life of a code", align="left")
    left = _walk(api, console)
    reply = api.call("GET", counts)
    _step(console, "count", reply, _amounts(reply.body))

    console.rule("Try it", align="left")
    _paste(console, api, file_key=file_key, reserved=left)


def _put_file(stack: Stack, console: Console, *, key: str, codes: int) -> int:
    """Generate the file and put it to S3, unless an earlier run did; return its size in bytes."""
    try:
        with closing(stack.s3.client()) as client:
            found = client.list_objects_v2(Bucket=BUCKET, Prefix=key, MaxKeys=1).get("Contents", ())
            if found:
                console.print(f"  s3://{BUCKET}/{key} is there from an earlier run", soft_wrap=True)
                return int(found[0]["Size"])
            started = time.monotonic()
            file = stack.directory / "generated.csv"
            size = write_codes(file, codes)
            with file.open("rb") as body:
                client.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType="text/csv")
    except (BotoCoreError, ClientError) as error:
        stack.check()
        raise DemoError(f"S3 did not take the file: {type(error).__name__}") from None
    file.unlink()
    told = f"{size / 1e6:,.1f} MB, generated and put there in {time.monotonic() - started:.1f} s"
    console.print(f"  s3://{BUCKET}/{key}: {told}", soft_wrap=True)
    return size


def _upload(stack: Stack, console: Console, api: Api, *, file_key: str, size: int, codes: int) -> None:
    path = f"/v1/{CAMPAIGN}/codes"
    codes_before, bytes_before = api.uploaded()
    request = _Background(lambda: api.call("POST", path, {"fileKey": file_key}, limit=None))
    with UploadProgress(console, bytes_total=size, codes_total=codes) as progress:
        while not request.wait(_POLL_SECONDS):
            stack.check()
            codes_now, bytes_now = api.uploaded()
            progress.update(codes=codes_now - codes_before, bytes_done=bytes_now - bytes_before)
        try:
            reply = request.result()
        except DemoError:
            stack.check()
            raise
        count = reply.body["count"]
        progress.update(codes=count["in"], bytes_done=size)
    _step(console, "upload", reply, json.dumps(reply.body))
    rate = f"{count['in'] / reply.seconds:,.0f} codes/s"
    console.print(f"  {'':9}[bold]{rate}[/], each code confirmed by MongoDB", highlight=False)


def _walk(api: Api, console: Console) -> list[str]:
    """Reserve, assign and release, and return the codes that stay reserved."""
    reply = api.call("POST", f"/v1/{CAMPAIGN}/reserve?count={_RESERVED}&type={CODE_TYPE}")
    codes = [str(entry["code"]) for entry in reply.body["codes"]]
    _step(console, "reserve", reply, f"{' '.join(codes)} under {reply.body['reserveId']}")
    for name, some in (("assign", codes[:2]), ("release", codes[2:3])):
        if some:
            reply = api.call("POST", f"/v1/{CAMPAIGN}/{name}", {"codes": some})
            _step(console, name, reply, f"{' '.join(some)}  {json.dumps(reply.body)}")
    return codes[3:]


def _paste(console: Console, api: Api, *, file_key: str, reserved: list[str]) -> None:
    """Print lines that work in a shell, none of them wrapped."""
    base = f"{api.url}/v1/{CAMPAIGN}"
    to_assign, to_release = [*reserved, "SOME-CODE", "ANOTHER-CODE"][:2]
    requests = [
        ("count", "", f"{base}/codes/count?type={CODE_TYPE}", None),
        ("reserve", "-X POST ", f"{base}/reserve?count=3&type={CODE_TYPE}", None),
        ("assign", "", f"{base}/assign", {"codes": [to_assign]}),
        ("release", "", f"{base}/release", {"codes": [to_release]}),
        ("upload again", "", f"{base}/codes", {"fileKey": file_key}),
    ]
    _plain(console, f"TOKEN={api.token}")
    for name, method, url, body in requests:
        sent = "" if body is None else f" -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        console.print(f"[dim]# {name}[/]", highlight=False)
        _plain(console, f"""curl -sS {method}-H "Authorization: Bearer $TOKEN"{sent} '{url}'""")
    console.print("[dim]# another token, when this one has expired[/]", highlight=False)
    _plain(console, f"""TOKEN=$(curl -sS '{api.url}/dev/token' | cut -d'"' -f4)""")


def _step(console: Console, name: str, reply: Reply, told: str) -> None:
    took = f"{reply.seconds * 1000:,.0f} ms" if reply.seconds < 1 else f"{reply.seconds:,.2f} s"
    console.print(f"  [bold green]{name:<8}[/] {took:>8}  ", end="", highlight=False)
    _plain(console, told)


def _plain(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _amounts(counts: dict[str, Any]) -> str:
    return "   ".join(f"{status} {number:,}" for status, number in counts.items())


def _total(metrics: str, series: str) -> int:
    return round(sum(float(value) for value in re.findall(rf"^{series} (\S+)", metrics, re.MULTILINE)))


class _Background:
    """One call in a thread that does not keep the process from ending."""

    def __init__(self, call: Callable[[], Reply]) -> None:
        self._call = call
        self._reply: Reply | None = None
        self._error: DemoError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long, and tell whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Reply:
        """Return the reply, or raise what the call raised."""
        if self._error is not None:
            raise self._error
        if self._reply is None:
            raise DemoError("the request ended without a reply")
        return self._reply

    def _run(self) -> None:
        try:
            self._reply = self._call()
        except DemoError as error:
            self._error = error
