"""Settings: what each variable takes, what it is by default, and what is said of one that is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from codesvc.errors import SettingsError
from codesvc.settings import Driver, LogFormat, LogLevel, Settings, WriteStrategy, load_settings

Set = Callable[..., None]

PEM = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Set variables, without their prefix; those of AWS as they are."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)

    def set_(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name if name.startswith("AWS_") else f"CODESVC_{name}", value)

    return set_


def test_the_defaults_of_the_contract(environment: Set) -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert (settings.mongo_uri, settings.mongo_database) == ("mongodb://127.0.0.1:27017", "codesvc")
    assert (settings.s3_bucket, settings.s3_endpoint_url, settings.aws_region) == ("", None, None)
    assert (settings.batch_size, settings.reservation_ttl) == (50_000, 86_400)
    assert (settings.max_reserve, settings.max_codes_per_request) == (10_000, 100_000)
    assert settings.max_row_bytes == 4 << 20
    assert (settings.write_concern, settings.write_journal) == ("majority", True)
    assert (settings.mongo_driver, settings.write_strategy) == (Driver.MOTOR, WriteStrategy.INSERT_FIRST)
    assert settings.dev is False
    # A reply is promised within 30 s.
    assert settings.mongo_timeout < 30


def test_every_variable_is_read(environment: Set) -> None:
    environment(
        HOST="127.0.0.1",
        PORT="0",
        LOG_LEVEL="DEBUG",
        WORKERS="auto",
        LOG_FORMAT="console",
        LOG_PROBES="5",
        DRAIN_SECONDS="1.5",
        MONGO_URI="mongodb+srv://user:pass@example.org/",
        MONGO_DATABASE="promo-1_ä",
        MONGO_DRIVER="pymongo",
        MONGO_TIMEOUT="2.5",
        S3_BUCKET="bucket",
        S3_ENDPOINT_URL="http://127.0.0.1:9000",
        AWS_DEFAULT_REGION="eu-central-1",
        JWT_SECRET="s",
        JWT_JWKS_URL="https://example.org/keys",
        JWT_PUBLIC_KEY=PEM,
        JWT_ALGORITHMS=" HS256, RS256 ,",
        JWT_ISSUER="me",
        JWT_AUDIENCE="you",
        JWT_LEEWAY="5",
        DEV="1",
        CONSOLE="false",
        BATCH_SIZE="10",
        SORT_CODES="100",
        WRITE_CONCURRENCY="3",
        WRITE_CONCERN="2",
        WRITE_JOURNAL="false",
        WRITE_STRATEGY="upsert",
        READ_CONCURRENCY="5",
        READ_PART_SIZE="65536",
        MAX_ROW_BYTES="2048",
        MAX_WRITES="9",
        MAX_REQUESTS="100",
        MAX_STREAMS="200",
        MAX_BODIES="40000000",
        MAX_CONNECTIONS="500",
        MAX_UPLOADS="4",
        MAX_QUEUED_UPLOADS="0",
        UPLOAD_TTL="3600",
        UPLOAD_LEASE="9.5",
        RESERVATION_TTL="60",
        IDEMPOTENCY_TTL="90",
        MAX_RESERVE="20",
        MAX_CODES_PER_REQUEST="30",
        STOCK_INTERVAL="0.5",
        STOCK_CAMPAIGNS="7",
    )
    settings = load_settings()
    secret = settings.jwt_secret
    assert secret is not None
    assert secret.get_secret_value() == "s"
    assert settings.model_dump(exclude={"jwt_secret"}) == {
        "host": "127.0.0.1",
        "port": 0,
        "log_level": LogLevel.DEBUG,
        "workers": 0,
        "log_format": LogFormat.CONSOLE,
        "log_probes": 5,
        "drain_seconds": 1.5,
        "mongo_uri": "mongodb+srv://user:pass@example.org/",
        "mongo_database": "promo-1_ä",
        "mongo_driver": Driver.PYMONGO,
        "mongo_timeout": 2.5,
        "s3_bucket": "bucket",
        "s3_endpoint_url": "http://127.0.0.1:9000",
        "aws_region": "eu-central-1",
        "jwt_jwks_url": "https://example.org/keys",
        "jwt_public_key": PEM,
        "jwt_algorithms": ("HS256", "RS256"),
        "jwt_issuer": "me",
        "jwt_audience": "you",
        "jwt_leeway": 5.0,
        "dev": True,
        "console": False,
        "batch_size": 10,
        "sort_codes": 100,
        "write_concurrency": 3,
        "max_writes": 9,
        "write_concern": 2,
        "write_journal": False,
        "write_strategy": WriteStrategy.UPSERT,
        "read_concurrency": 5,
        "read_part_size": 65536,
        "max_row_bytes": 2048,
        "max_requests": 100,
        "max_streams": 200,
        "max_bodies": 40_000_000,
        "max_connections": 500,
        "max_uploads": 4,
        "max_queued_uploads": 0,
        "upload_ttl": 3600,
        "upload_lease": 9.5,
        "idempotency_ttl": 90,
        "reservation_ttl": 60,
        "max_reserve": 20,
        "max_codes_per_request": 30,
        "stock_interval": 0.5,
        "stock_campaigns": 7,
    }


def test_an_override_wins_over_the_environment(environment: Set) -> None:
    environment(PORT="1")
    assert load_settings(port=2).port == 2


def test_settings_do_not_change(environment: Set) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("PORT", ""),
        ("LOG_LEVEL", "LOUD"),
        ("WORKERS", "-1"),
        ("WORKERS", "many"),
        ("WORKERS", "257"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "inf"),
        ("MONGO_URI", ""),
        ("MONGO_URI", "127.0.0.1:27017"),
        ("MONGO_URI", "mongodb://"),
        ("MONGO_DATABASE", ""),
        ("MONGO_DATABASE", "a b"),
        ("MONGO_DATABASE", "a.b"),
        ("MONGO_DATABASE", "a$b"),
        ("MONGO_DATABASE", "x" * 64),
        ("MONGO_DRIVER", "mongoose"),
        ("MONGO_TIMEOUT", "0"),
        ("MONGO_TIMEOUT", "30"),
        ("MONGO_TIMEOUT", "nan"),
        ("S3_ENDPOINT_URL", "127.0.0.1:9000"),
        ("S3_ENDPOINT_URL", "ftp://example.org"),
        ("S3_ENDPOINT_URL", "http:///x"),
        ("JWT_JWKS_URL", "example.org/keys"),
        ("JWT_PUBLIC_KEY", "no/such/file.pem"),
        ("JWT_ALGORITHMS", "none"),
        ("JWT_ALGORITHMS", "HS256,XX1"),
        ("JWT_LEEWAY", "-1"),
        ("DEV", "perhaps"),
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "100001"),
        ("BATCH_SIZE", "1e3"),
        ("SORT_CODES", "0"),
        ("SORT_CODES", "10000001"),
        ("WRITE_CONCURRENCY", "0"),
        ("WRITE_CONCERN", "0"),
        ("WRITE_CONCERN", "-1"),
        ("WRITE_CONCERN", "51"),
        ("WRITE_CONCERN", ""),
        ("WRITE_CONCERN", " "),
        ("WRITE_JOURNAL", "sometimes"),
        ("WRITE_STRATEGY", "replace"),
        ("READ_CONCURRENCY", "65"),
        ("READ_PART_SIZE", "0"),
        ("MAX_ROW_BYTES", "0"),
        ("RESERVATION_TTL", "0"),
        ("RESERVATION_TTL", "1.5"),
        ("MAX_RESERVE", "0"),
        ("MAX_RESERVE", "1000000"),
        ("MAX_CODES_PER_REQUEST", "0"),
        ("STOCK_INTERVAL", "-1"),
        ("STOCK_CAMPAIGNS", "-1"),
    ],
)
def test_a_malformed_setting_is_named_in_one_line(environment: Set, name: str, value: str) -> None:
    environment(**{name: value})
    with pytest.raises(SettingsError) as raised:
        load_settings()
    message = str(raised.value)
    assert message.startswith(f"CODESVC_{name}: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("MONGO_URI", "http://user:hunter2@example.org"),
        ("JWT_PUBLIC_KEY", "hunter2"),
        ("JWT_ALGORITHMS", "hunter2"),
        ("S3_ENDPOINT_URL", "user:hunter2@example.org"),
    ],
)
def test_a_message_never_repeats_the_value(environment: Set, name: str, secret: str) -> None:
    environment(**{name: secret})
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert "hunter2" not in str(raised.value)


def test_the_secret_is_not_shown(environment: Set) -> None:
    environment(JWT_SECRET="hunter2")
    assert "hunter2" not in repr(load_settings())


@pytest.mark.parametrize(
    "name", ["S3_ENDPOINT_URL", "JWT_SECRET", "JWT_JWKS_URL", "JWT_PUBLIC_KEY", "JWT_ISSUER", "JWT_AUDIENCE"]
)
def test_an_empty_variable_is_as_one_that_is_not_set(environment: Set, name: str) -> None:
    # Deployment tools set variables to nothing.
    environment(**{name: ""})
    assert getattr(load_settings(), name.lower()) is None


def test_the_region_of_a_service_account_goes_first(environment: Set) -> None:
    environment(AWS_DEFAULT_REGION="us-east-1", AWS_REGION="eu-west-1")
    assert load_settings().aws_region == "eu-west-1"


@pytest.mark.parametrize("value", ["1", "50", "majority", " majority ", "twoDatacenters"])
def test_write_concerns(environment: Set, value: str) -> None:
    environment(WRITE_CONCERN=value)
    expected = int(value) if value.isdecimal() else value.strip()
    assert load_settings().write_concern == expected


def test_a_public_key_is_text_or_the_path_of_a_file(environment: Set, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(PEM, encoding="ascii")
    environment(JWT_PUBLIC_KEY=str(file))
    assert load_settings().jwt_public_key == PEM
    for content in (b"no key", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=r"^CODESVC_JWT_PUBLIC_KEY: "):
            load_settings()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"JWT_ALGORITHMS": "HS256"}, "CODESVC_JWT_SECRET"),
        ({"JWT_ALGORITHMS": "RS256"}, "CODESVC_JWT_JWKS_URL"),
        ({"JWT_ALGORITHMS": "HS256,ES256", "JWT_SECRET": "s"}, "CODESVC_JWT_PUBLIC_KEY"),
        ({"JWT_ALGORITHMS": "HS256,ES256", "JWT_PUBLIC_KEY": PEM}, "CODESVC_JWT_SECRET"),
    ],
)
def test_an_algorithm_without_its_key(environment: Set, values: dict[str, str], named: str) -> None:
    environment(**values)
    with pytest.raises(SettingsError, match=named) as raised:
        load_settings()
    assert "\n" not in str(raised.value)


def test_what_serving_needs(environment: Set) -> None:
    with pytest.raises(SettingsError, match="CODESVC_S3_BUCKET"):
        load_settings(jwt_secret="s").require_serve()
    with pytest.raises(SettingsError, match="CODESVC_JWT_SECRET"):
        load_settings(s3_bucket="b").require_serve()
    for key in ({"jwt_secret": "s"}, {"jwt_public_key": PEM}, {"jwt_jwks_url": "https://example.org/"}):
        settings: Settings = load_settings(s3_bucket="b", **key)
        assert settings.require_serve() is settings
