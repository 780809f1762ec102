"""``python -m codesvc.livez`` asks the service of this machine for /livez: for images that carry no curl."""

import http.client
import os
import sys
from typing import Final

_SECONDS: Final = 2.0
_ANY: Final = {"", "0.0.0.0", "::"}  # noqa: S104 - compared, not bound


def main() -> int:
    """Return 0 if the process that CODESVC_HOST and CODESVC_PORT name is alive, 1 otherwise."""
    host = os.environ.get("CODESVC_HOST", "")
    port = os.environ.get("CODESVC_PORT") or "8080"
    try:
        connection = http.client.HTTPConnection(
            "127.0.0.1" if host in _ANY else host, int(port), timeout=_SECONDS
        )
        connection.request("GET", "/livez")
        return 0 if connection.getresponse().status == http.HTTPStatus.OK else 1
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.stderr.write(f"{type(error).__name__}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
