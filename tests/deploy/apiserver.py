"""As much of Kubernetes' API as kubectl needs to be tried: objects are kept, checked by the schemas, and done at once.

Not a cluster: nothing runs. But kubectl is the real one, and so are what it reads, asks and selects.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import yaml

_validate: Any = import_module("kubernetes_validate").validate
_VERSION: Final = "1.37"

RESOURCES: Final = {
    "v1": {"namespaces": "Namespace", "configmaps": "ConfigMap", "secrets": "Secret", "services": "Service",
           "serviceaccounts": "ServiceAccount", "pods": "Pod"},
    "apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet", "replicasets": "ReplicaSet"},
    "batch/v1": {"jobs": "Job"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
}  # fmt: skip

_PATH: Final = re.compile(
    r"/(?:api|apis)/(?P<group>v1|[a-z0-9.]+/v\d)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)
# What each kind says of itself once all is well.
_DONE: Final[dict[str, Any]] = {
    "Job": {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1},
    "Deployment": dict.fromkeys(
        ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1
    ),
}

Key = tuple[str, str, str]


class Cluster:
    """The objects by kind, namespace and name, and what was asked for, in order."""

    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.written: list[tuple[str, str, str]] = []
        self.url = ""

    def put(self, kind: str, namespace: str, name: str, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Keep an object as it was sent, unless a cluster would refuse it."""
        _validate(sent, _VERSION, strict=True)
        if kind != "Namespace" and ("Namespace", "", namespace) not in self.objects:
            return 404, _status(404, "NotFound", f'namespaces "{namespace}" not found')
        before = self.objects.get((kind, namespace, name))
        if kind == "Job" and before is not None and before["spec"]["template"] != sent["spec"]["template"]:
            return 422, _status(422, "Invalid", f"{name}: spec.template: field is immutable")
        metadata = {**sent["metadata"], "uid": f"{kind}-{name}", "resourceVersion": "1", "generation": 1}
        if kind != "Namespace":
            metadata["namespace"] = namespace
        kept = {**sent, "metadata": metadata, "status": _DONE.get(kind, {})}
        if kind == "Deployment":
            kept["spec"] = {"replicas": 1, **kept["spec"]}
        self.objects[kind, namespace, name] = kept
        self.written.append(("put", kind, name))
        return 201 if before is None else 200, kept

    def found(self, kind: str, namespace: str, name: str | None) -> list[dict[str, Any]]:
        """Return the objects of a kind, or the one of that name."""
        return [
            each
            for (its_kind, its_namespace, its_name), each in self.objects.items()
            if (its_kind, its_namespace) == (kind, namespace) and name in {None, its_name}
        ]


@contextmanager
def running() -> Iterator[Cluster]:
    """Serve an empty cluster on a free port."""
    cluster = Cluster()

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": cluster}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    cluster.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        discovered = _discovery(address.path)
        if discovered is not None:
            self._reply(200, discovered)
            return
        asked = parse_qs(address.query)
        kind, namespace, name = self._named(address.path)
        if kind is None:
            self._reply(404, _status(404, "NotFound", "no such path"))
        elif name is not None:
            found = self.cluster.found(kind, namespace, name)
            self._reply(
                *((200, found[0]) if found else (404, _status(404, "NotFound", f'"{name}" not found')))
            )
        elif "watch" in asked:
            # To list and then to watch is all that is offered; and nothing will ever change.
            if "sendInitialEvents" in asked:
                self._reply(422, _status(422, "Invalid", "sendInitialEvents is not supported"))
            else:
                self._reply(200, {})
        else:
            only = re.fullmatch(r"metadata\.name=(.+)", asked.get("fieldSelector", [""])[0])
            items = self.cluster.found(kind, namespace, only[1] if only else None)
            version = items[0]["apiVersion"] if items else "v1"
            metadata = {"resourceVersion": "1"}
            self._reply(
                200, {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": items}
            )

    def do_POST(self) -> None:
        self._write()

    def do_PATCH(self) -> None:
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            self._write()
            return
        # What `rollout restart` sends; the change itself is not needed here.
        self.rfile.read(int(self.headers["Content-Length"]))
        kind, namespace, name = self._named(urlsplit(self.path).path)
        self._reply(200, self.cluster.objects[kind or "", namespace, name or ""])

    def do_DELETE(self) -> None:
        kind, namespace, name = self._named(urlsplit(self.path).path)
        gone = self.cluster.objects.pop((kind or "", namespace, name or ""), None)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if gone is None:
            self._reply(404, _status(404, "NotFound", f'"{name}" not found'))
        else:
            self.cluster.written.append(("delete", kind or "", name or ""))
            self._reply(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _write(self) -> None:
        sent = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
        kind, namespace, _ = self._named(urlsplit(self.path).path)
        assert kind is not None
        assert kind == sent["kind"]
        self._reply(*self.cluster.put(kind, namespace, sent["metadata"]["name"], sent))

    def _named(self, path: str) -> tuple[str | None, str, str | None]:
        match = _PATH.fullmatch(path)
        if match is None or match["plural"] not in RESOURCES.get(match["group"], {}):
            return None, "", None
        return RESOURCES[match["group"]][match["plural"]], match["namespace"] or "", match["name"]

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


def _discovery(path: str) -> dict[str, Any] | None:
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = []
        for group_version in [one for one in RESOURCES if "/" in one]:
            group, version = group_version.split("/")
            told = {"groupVersion": group_version, "version": version}
            groups.append({"name": group, "versions": [told], "preferredVersion": told})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if path == "/version":
        return {"major": "1", "minor": "37", "gitVersion": f"v{_VERSION}.0"}
    group_version = path.removeprefix("/apis/").removeprefix("/api/")
    if group_version not in RESOURCES:
        return None
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {
            "name": plural,
            "singularName": kind.lower(),
            "namespaced": kind != "Namespace",
            "kind": kind,
            "verbs": verbs,
        }
        for plural, kind in RESOURCES[group_version].items()
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
