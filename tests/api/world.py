"""One running service together with its database and its bucket, to arrange and to look from outside."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pymongo.collection import Collection
from pymongo.database import Database

from .harness import Document, Reply, Service, assert_counts, csv_of


@dataclass(frozen=True, slots=True)
class World:
    """A service, and what it depends on."""

    service: Service
    database: Database[Document]
    s3: Any
    bucket: str

    @property
    def codes(self) -> Collection[Document]:
        """The collection of the contract."""
        return self.database["codes"]

    def put(
        self,
        campaign_id: str,
        content: bytes,
        *,
        code_type: str = "tm",
        name: str | None = None,
        **metadata: str,
    ) -> str:
        """Store an object in the bucket, perhaps with metadata as S3's PutObject names it; return its file key."""
        key = f"codes/{campaign_id}/{code_type}/{name or uuid.uuid4().hex + '.csv'}"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=content, **metadata)
        return key

    def upload(self, campaign_id: str, content: bytes, *, code_type: str = "tm", **options: Any) -> Reply:
        """Store a file and upload it."""
        return self.service.upload(self.put(campaign_id, content, code_type=code_type), **options)

    def stock(self, campaign_id: str, codes: Sequence[str], *, code_type: str = "tm") -> None:
        """Upload new codes."""
        assert_counts(self.upload(campaign_id, csv_of(codes), code_type=code_type), len(codes), len(codes), 0)

    def documents(self, campaign_id: str) -> dict[str, Document]:
        """Return every document of a campaign by its code."""
        return {found["_id"]["code"]: found for found in self.codes.find({"_id.campaign_id": campaign_id})}

    def stored(self, campaign_id: str) -> set[str]:
        """Return every code of a campaign."""
        return set(self.documents(campaign_id))

    def insert(self, documents: Iterable[Document]) -> None:
        """Write documents past the service, in the shape that the contract gives them."""
        self.codes.insert_many(list(documents))


class Hosting(Protocol):
    """What the fixture ``hosting`` gives."""

    def __call__(
        self, settings: Mapping[str, str | None], database: str, *, ready: bool = True
    ) -> AbstractContextManager[World]:
        """Have a service with these settings on this database for the time of a block."""
