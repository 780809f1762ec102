"""Settings from the environment: read once, checked at start, frozen."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from codesvc.errors import SettingsError

PREFIX: Final = "CODESVC_"

HMAC_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
ASYMMETRIC_ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
_KNOWN_ALGORITHMS: Final = frozenset(
    (*HMAC_ALGORITHMS, *ASYMMETRIC_ALGORITHMS, "RS384", "RS512", "ES384", "ES512", "PS256", "PS384", "PS512")
)


class Driver(StrEnum):
    """Which asyncio client of MongoDB the datastore uses."""

    MOTOR = "motor"
    PYMONGO = "pymongo"


class WriteStrategy(StrEnum):
    """How an upload writes: see codesvc/datastore/codes.py."""

    INSERT_FIRST = "insert-first"
    UPSERT = "upsert"


class LogFormat(StrEnum):
    """The form of a log line; ``auto`` is ``console`` on a terminal and ``json`` elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least severe record that is written."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class Settings(BaseSettings):
    """Every setting, with its default; the variable is the field's name in capitals after ``CODESVC_``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    host: str = "0.0.0.0"  # noqa: S104 - a container listens on every interface
    port: int = Field(8080, ge=0, le=65535)
    log_level: LogLevel = LogLevel.INFO
    workers: int = Field(1, ge=0, le=256)
    """Processes that serve; 0 for one on each core that may be used."""
    log_format: LogFormat = LogFormat.AUTO
    log_probes: int = Field(0, ge=0)
    """The access log has one in so many of the probes that succeed; 0: none of them."""
    drain_seconds: float = Field(20.0, ge=0, le=3600)
    """How long requests in flight may take to end after SIGTERM."""

    mongo_uri: str = "mongodb://127.0.0.1:27017"
    mongo_database: str = Field("codesvc", min_length=1, max_length=63)
    mongo_driver: Driver = Driver.MOTOR
    mongo_timeout: float = Field(20.0, gt=0, le=28)
    """Seconds that one operation may wait for MongoDB, retries included; a reply is promised within 30 s."""

    s3_bucket: str = ""
    s3_endpoint_url: str | None = None
    aws_region: str | None = Field(None, validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"))
    """The AWS libraries for Python read the second name only; Kubernetes service accounts set the first."""

    jwt_secret: SecretStr | None = None
    jwt_jwks_url: str | None = None
    jwt_public_key: str | None = None
    """PEM text: a path is replaced by what the file holds."""
    jwt_algorithms: Annotated[tuple[str, ...], NoDecode] = ()
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_leeway: float = Field(0.0, ge=0, le=3600)
    dev: bool = False
    console: bool = True
    """Whether there is a page at ``/console``; it can do what the API can, with the token of whoever looks."""

    batch_size: int = Field(50_000, ge=1, le=100_000)
    sort_codes: int = Field(1_000_000, ge=1, le=10_000_000)
    """Codes of one upload that are sorted together before they are written."""
    write_concurrency: int = Field(2, ge=1, le=64)
    max_writes: int = Field(8, ge=1, le=1024)
    """Bulk writes in flight for all uploads of a process; fewer than Motor has threads, which others need as well."""
    write_concern: int | str = "majority"
    write_journal: bool = True
    write_strategy: WriteStrategy = WriteStrategy.INSERT_FIRST
    read_concurrency: int = Field(3, ge=1, le=64)
    read_part_size: int = Field(8 << 20, ge=1, le=1 << 30)
    max_row_bytes: int = Field(4 << 20, ge=1, le=1 << 30)

    max_requests: int = Field(256, ge=1, le=100_000)
    """Requests to /v1 under way at once in one process, but for uploads and for replies sent piece by piece."""
    max_streams: int = Field(1_000, ge=1, le=100_000)
    max_bodies: int = Field(128 << 20, ge=32 << 20, le=1 << 40)
    """Bytes of all bodies whose requests are under way; there is room for the largest at the least."""
    max_connections: int = Field(8_192, ge=16, le=1_000_000)

    max_uploads: int = Field(16, ge=1, le=1000)
    """Uploads that run at once in one process; further ones wait."""
    max_queued_uploads: int = Field(1000, ge=0, le=100_000)
    upload_ttl: int = Field(30 * 86_400, ge=60, le=10 * 365 * 86_400)
    """How long it is kept what became of an upload, in seconds from its end."""
    upload_lease: float = Field(25.0, ge=2, le=300)
    """Seconds without a word of an upload's process after which another one takes the upload over."""

    idempotency_ttl: int = Field(86_400, ge=1, le=10 * 365 * 86_400)
    """How long the reply to a request with an Idempotency-Key is kept, in seconds."""

    reservation_ttl: int = Field(86_400, ge=1, le=10 * 365 * 86_400)
    max_reserve: int = Field(10_000, ge=1, le=100_000)
    """A reserve is one transaction, and what that changes has to fit into MongoDB's cache."""
    max_codes_per_request: int = Field(100_000, ge=1, le=10_000_000)

    stock_interval: float = Field(60.0, ge=0, le=600)
    """Seconds between two samples of the whole stock for the metrics; 0 for none."""
    stock_campaigns: int = Field(20, ge=0, le=1_000)
    """Campaigns that the metrics show one by one."""

    @field_validator(
        "s3_endpoint_url",
        "aws_region",
        "jwt_secret",
        "jwt_jwks_url",
        "jwt_public_key",
        "jwt_issuer",
        "jwt_audience",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("workers", mode="before")
    @classmethod
    def _automatic(cls, value: Any) -> Any:
        return 0 if value == "auto" else value

    @field_validator("s3_endpoint_url", "jwt_jwks_url")
    @classmethod
    def _http_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/]+\S*", value):
            raise ValueError("is no http or https address")
        return value

    @field_validator("mongo_uri")
    @classmethod
    def _mongo_address(cls, value: str) -> str:
        if not re.match(r"mongodb(\+srv)?://.", value):
            raise ValueError("does not start with mongodb:// or mongodb+srv://")
        return value

    @field_validator("mongo_database")
    @classmethod
    def _database_name(cls, value: str) -> str:
        if re.search(r"[/\\. \"$*<>:|?\x00]", value):
            raise ValueError("has a character that MongoDB does not allow in a database's name")
        return value

    @field_validator("jwt_public_key")
    @classmethod
    def _pem(cls, value: str | None) -> str | None:
        if value is None or "-----BEGIN" in value:
            return value
        try:
            text = Path(value).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError, ValueError):
            raise ValueError("is neither PEM text nor the path of a PEM file that can be read") from None
        if "-----BEGIN" not in text:
            raise ValueError("names a file that holds no PEM text")
        return text

    @field_validator("jwt_algorithms", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        for name in names:
            if name not in _KNOWN_ALGORITHMS:
                known = ", ".join(sorted(_KNOWN_ALGORITHMS))
                raise ValueError(f"names an algorithm that is not one of {known}")
        return names

    @field_validator("write_concern", mode="before")
    @classmethod
    def _write_concern(cls, value: Any) -> Any:
        text = str(value).strip()
        if re.fullmatch(r"[+-]?\d+", text):
            number = int(text)
            if not 1 <= number <= 50:
                raise ValueError(
                    "must be 1 to 50, majority or a tag: unacknowledged writes cannot be counted"
                )
            return number
        if not text:
            raise ValueError("must be 1 to 50, majority, or a tag")
        return text

    @model_validator(mode="after")
    def _algorithms_fit_the_keys(self) -> Self:
        hmac = set(self.jwt_algorithms) & set(HMAC_ALGORITHMS)
        asymmetric = set(self.jwt_algorithms) - hmac
        if self.jwt_algorithms:
            if hmac and self.jwt_secret is None:
                raise ValueError("CODESVC_JWT_ALGORITHMS asks for an HMAC, but CODESVC_JWT_SECRET is not set")
            if asymmetric and self.jwt_jwks_url is None and self.jwt_public_key is None:
                raise ValueError(
                    "CODESVC_JWT_ALGORITHMS asks for a signature, but neither CODESVC_JWT_JWKS_URL "
                    "nor CODESVC_JWT_PUBLIC_KEY is set"
                )
        return self

    def require_bucket(self) -> Self:
        """Raise SettingsError unless a bucket is named."""
        if not self.s3_bucket:
            raise SettingsError("CODESVC_S3_BUCKET: is not set")
        return self

    def require_serve(self) -> Self:
        """Raise SettingsError unless everything that ``codesvc serve`` needs is set."""
        self.require_bucket()
        if self.jwt_secret is None and self.jwt_jwks_url is None and self.jwt_public_key is None:
            raise SettingsError(
                "CODESVC_JWT_SECRET: is not set, nor is CODESVC_JWT_JWKS_URL or CODESVC_JWT_PUBLIC_KEY"
            )
        return self


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; ``overrides`` win over it.

    Raises:
        SettingsError: one line that names the variable and says what is wrong, never its value.

    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ").replace("\n", " ")
        if not first["loc"]:
            raise SettingsError(message) from None
        raise SettingsError(f"{PREFIX}{str(first['loc'][0]).upper()}: {message}") from None
