"""Uploads in the OpenAPI document."""

from codesvc.web.openapi_parts import (
    KEY_HEADERS,
    Json,
    campaign_parameters,
    header_references,
    operation,
    query_parameters,
    reference,
    success,
)
from codesvc.web.schemas import UploadReply, UploadRequest
from codesvc.web.upload_schemas import UploadResource, UploadsReply


def upload() -> Json:
    """Describe how an upload is begun."""
    begun = operation(
        "codes",
        "Load a file of codes",
        "Reads the object from S3 and stores its codes; the reply comes when all of it is stored, or, to a caller "
        "who prefers not to wait, at once. Sending it again is safe: codes that are there already are counted as "
        "updated. With `dryRun`, all is read, checked and looked up, and nothing stored: the counts say what would be.",
        operation_id="upload",
        parameters=[{"$ref": "#/components/parameters/Prefer"}],
        body=UploadRequest,
        reply=UploadReply,
        problems=(
            *("invalidFileKey", "campaignMismatch", "fileNotFound", "fileChanged", "uploadCancelled"),
            *("invalidRow", "notCsv", "corruptFile", "storageUnavailable", "tooManyUploads"),
        ),
        keyed=True,
    )
    responses = begun["responses"]
    responses["200"]["headers"] |= header_references("Location")
    responses["202"] = success(
        UploadResource,
        "Accepted, for a caller who prefers not to wait.",
        headers=("Location", "Preference-Applied", *KEY_HEADERS),
    )
    return begun


def upload_paths(schemas: Json) -> dict[str, Json]:
    """Describe what can be asked of uploads."""
    one = [*campaign_parameters(), {"$ref": "#/components/parameters/uploadId"}]
    return {
        "/v1/{campaignId}/uploads": {
            "parameters": campaign_parameters(),
            "get": operation(
                "uploads",
                "List uploads",
                "Tells of a campaign's uploads, the latest first, a page at a time. Those that have ended are kept for "
                "30 days unless configured otherwise.",
                operation_id="uploads",
                parameters=query_parameters(schemas["UploadsQuery"]),
                reply=UploadsReply,
                problems=("invalidLimit", "invalidAfter"),
            ),
        },
        "/v1/{campaignId}/uploads/{uploadId}": {
            "parameters": one,
            "get": operation(
                "uploads",
                "Look at one upload",
                "Tells how far an upload has come. Another process goes on with it if the one that runs it goes away. "
                "`failed` with the error `interrupted`: five in a row have died without coming further; to send the "
                "upload again is safe.",
                operation_id="getUpload",
                reply=UploadResource,
                problems=("notFound",),
            ),
            "delete": _delete(schemas),
        },
        "/v1/{campaignId}/uploads/{uploadId}/events": {"parameters": one, "get": _events()},
        "/v1/{campaignId}/uploads/{uploadId}/invalid": {"parameters": one, "get": _invalid()},
    }


def _delete(schemas: Json) -> Json:
    delete = operation(
        "uploads",
        "Cancel an upload, or take it back",
        "Ends an upload that is queued or runs, after the batches in flight; its counts tell what was stored. Of one "
        "that has ended, the codes that it inserted and that are available now are deleted and counted in `takenBack`; "
        "codes that were there before it, are held or are assigned stay. Sending it again goes on where it was left "
        "off, or looks for what has become available since. One that was cancelled less than a minute ago stays as it "
        "is, unless `takeBack` says otherwise: a cancel may be sent twice.",
        operation_id="deleteUpload",
        parameters=query_parameters(schemas["DeleteQuery"]),
        reply=UploadResource,
        problems=("notFound", "invalidTakeBack"),
    )
    delete["responses"]["202"] = success(
        UploadResource,
        "It has been told to end, and has not yet; or its codes are still being taken back: GET tells how many were. "
        "Send it again where `takenBack.done` stays false: the process that was at it is gone.",
    )
    return delete


def _events() -> Json:
    events = operation(
        "uploads",
        "Follow an upload",
        "Server-sent events: `progress` at least once a second, each with the whole upload, then one `end`, after "
        "which the stream ends. It also ends while the process shuts down: connect again, as `retry` says.",
        operation_id="uploadEvents",
        parameters=[{"$ref": "#/components/parameters/Last-Event-ID"}],
        reply=UploadResource,
        problems=("notFound",),
    )
    events["responses"]["200"]["content"] = {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": "One event.",
                "properties": {
                    "event": {"enum": ["progress", "end"]},
                    "id": {"type": "string"},
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": {"$ref": reference(UploadResource)},
                    },
                    "retry": {"type": "integer", "description": "Milliseconds."},
                },
            }
        }
    }
    events["responses"]["204"] = {
        "description": "The `end` has been received already: do not connect again.",
        "headers": header_references("X-Correlation-ID", "Cache-Control"),
    }
    return events


def _invalid() -> Json:
    invalid = operation(
        "uploads",
        "List the invalid rows of an upload",
        "Every row that was not stored, as CSV with a head: the physical line on which it starts, and why. While the "
        "upload runs, those that were met so far.",
        operation_id="invalidRows",
        reply=UploadResource,
        problems=("notFound",),
    )
    invalid["responses"]["200"]["content"] = {"text/csv": {"schema": {"type": "string"}}}
    return invalid
