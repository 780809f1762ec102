"""A stand-in for S3 that only serves: files of a directory, in ranges, under ETags.

moto is right but slow, and would hide the service behind itself. This process answers `GET /{bucket}/{key}` with
aiohttp's FileResponse, which knows Range, ETag and If-Match (RFC 9110); it checks no signature and knows no other
operation.

    python -m benchmarks.ranges DIRECTORY PORT
"""

import sys
from pathlib import Path

from aiohttp import web

_NO_SUCH_KEY = b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>no such file</Message></Error>'


def main() -> None:
    """Serve the directory's files until SIGTERM."""
    root = Path(sys.argv[1]).resolve()

    async def get(request: web.Request) -> web.StreamResponse:
        path = (root / request.match_info["key"]).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            return web.Response(status=404, body=_NO_SUCH_KEY, content_type="application/xml")
        return web.FileResponse(path, chunk_size=1 << 20)

    app = web.Application()
    app.router.add_get("/{bucket}/{key:.+}", get)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=None, print=None)


if __name__ == "__main__":
    main()
