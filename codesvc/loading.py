"""Uploads without HTTP: of one file, or of one process's share of many."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypedDict

from codesvc.app import Service
from codesvc.errors import SettingsError
from codesvc.ingest.shares import LoadReport, Selection, Share, Told, load_share
from codesvc.models import CodeType, Progress, UploadReport
from codesvc.sources.file import FileSource
from codesvc.sources.inflate import SUFFIX, InflatingSource
from codesvc.sources.s3 import S3Source

_FILE_KEY: Final = re.compile(r"codes/([A-Za-z0-9._~-]{1,128})/(tm|external)/.+", re.DOTALL)
_CAMPAIGN_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")


async def ingest(
    service: Service,
    source: str,
    *,
    campaign_id: str | None = None,
    code_type: CodeType | None = None,
    header: bool = False,
    strict: bool = False,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> UploadReport:
    """Run one upload without HTTP, or with ``dry_run`` tell what it would store.

    ``source`` is a local path, ``s3://bucket/key``, or a file key of the configured bucket (where no local file
    has that name). Campaign and type are taken from a name of the form ``codes/{campaign}/{type}/{name}`` unless
    they are given.

    Raises:
        SettingsError: the campaign or the type is neither given nor in the name; or no bucket is configured.
        CodesvcError: see ``Uploads.run``.

    """
    bucket, name = _parse_source(source)
    destination = _destination(name, campaign_id, code_type)
    async with _source(service, bucket) as opened:
        return await (service.dry_runs if dry_run else service.uploads).run(
            **destination,
            file_key=name,
            header=header,
            strict=strict,
            source=InflatingSource(opened),
            progress=progress,
        )


async def ingest_share(
    service: Service,
    source: str,
    *,
    share: Share,
    told: Told,
    campaign_id: str | None = None,
    code_type: CodeType | None = None,
    header: bool = False,
    strict: bool = False,
    dry_run: bool = False,
) -> LoadReport:
    """Run the uploads of one process's share of many files, see ``load_share``.

    With ``dry_run``, tell what each of them would store if it were the only one.

    ``source`` is as for ``ingest``, but ends in ``/`` or has a ``*`` in it.

    Raises:
        SettingsError: the campaign is malformed, or no bucket is configured.

    """
    if campaign_id is not None:
        _check_campaign(campaign_id)
    bucket, name = _parse_source(source)
    async with _source(service, bucket) as opened:
        inflating = InflatingSource(opened)

        async def load(file_key: str, progress: Callable[[Progress], None]) -> UploadReport:
            return await (service.dry_runs if dry_run else service.uploads).run(
                **_destination(file_key, campaign_id, code_type),
                file_key=file_key,
                header=header,
                strict=strict,
                source=inflating,
                progress=progress,
            )

        return await load_share(opened, Selection.of(name), share, load, told)


@asynccontextmanager
async def _source(service: Service, bucket: str | None) -> AsyncIterator[FileSource | S3Source]:
    if bucket is None:
        yield FileSource()
        return
    if not bucket:
        service.settings.require_bucket()
    async with S3Source(service.settings, service.telemetry, bucket=bucket or None) as source:
        yield source


class _Destination(TypedDict):
    campaign_id: str
    code_type: CodeType


def _destination(name: str, campaign_id: str | None, code_type: CodeType | None) -> _Destination:
    """Take what is not given from a name of the form ``codes/{campaign}/{type}/{name}``."""
    if name.endswith(".gz") and not name.endswith(SUFFIX):
        # Read as CSV, it would be taken for a file of broken rows, a few of which are not.
        raise SettingsError(f"SOURCE: a compressed file is read if its name ends in {SUFFIX}")
    match = _FILE_KEY.fullmatch(name)
    if match is not None:
        campaign_id = campaign_id or match[1]
        code_type = code_type or CodeType(match[2])
    if campaign_id is None or code_type is None:
        raise SettingsError("--campaign and --type are needed: the source's name does not tell them")
    _check_campaign(campaign_id)
    return {"campaign_id": campaign_id, "code_type": code_type}


def _check_campaign(campaign_id: str) -> None:
    if not _CAMPAIGN_ID.fullmatch(campaign_id):
        raise SettingsError("--campaign: is not 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")


def _parse_source(source: str) -> tuple[str | None, str]:
    """Split a source into bucket and name: None for a local path, an empty one for the configured bucket."""
    if source.startswith("s3://"):
        bucket, slash, key = source.removeprefix("s3://").partition("/")
        if not bucket or not slash or not (key or source.endswith("/")):
            raise SettingsError("SOURCE: is not of the form s3://bucket/key")
        return bucket, key
    folder, star, _ = source.partition("*")
    if star or source.endswith("/"):
        of_bucket = source.startswith("codes/") and not Path(folder.rpartition("/")[0]).exists()
    else:
        of_bucket = _FILE_KEY.fullmatch(source) is not None and not Path(source).exists()
    return "" if of_bucket else None, source
