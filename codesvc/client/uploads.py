"""Follows an upload to its end: by events where the service has them, by asking again and again where it has not."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from codesvc.client.errors import CodesvcClientError, NoReplyError
from codesvc.client.replies import Upload, read_upload
from codesvc.client.retries import Kind
from codesvc.client.transport import Call, Transport, understood

_POLL_SECONDS: Final = 1.0
_BARREN_STREAMS: Final = 2
"""After so many streams without an event, something in between keeps them back: then the upload is asked for."""


async def follow(transport: Transport, path: str, *, exact: bool) -> AsyncIterator[Upload]:
    """Yield how the upload at ``path`` stands, until it has ended; a connection that breaks is made again.

    Raises:
        CodesvcClientError: there is no such upload, or no sign of life for as long as the policy allows.

    """
    attempts = transport.policy.start()
    barren = 0
    read = partial(read_upload, exact=exact)
    while barren < _BARREN_STREAMS:
        error: CodesvcClientError = NoReplyError("the events of the upload ended before it did")
        try:
            async for data in transport.events(f"{path}/events"):
                if data is None:
                    barren += 1
                    continue
                attempts, barren = transport.policy.start(), 0
                upload = understood(read, data)
                yield upload
                if upload.state.ended:
                    return
        except CodesvcClientError as raised:
            if not raised.transient:
                break  # a service without events, or with other words for them; or no such upload, which asking tells
            error = raised
        pause = attempts.pause(error.retry_after)
        if pause is None:
            raise error
        await asyncio.sleep(pause)
    while True:
        upload = understood(read, (await transport.send(Call("GET", path, Kind.READ))).body)
        yield upload
        if upload.state.ended:
            return
        await asyncio.sleep(_POLL_SECONDS)
