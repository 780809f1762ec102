"""``python -m codesvc`` is the command ``codesvc``."""

from codesvc.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
