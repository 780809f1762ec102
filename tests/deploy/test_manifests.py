"""The manifests agree with each other, with the image, and with what the service does."""

import re
from typing import Any

import pytest
import yaml

from codesvc.settings import Settings, load_settings
from codesvc.version import __version__
from codesvc.web.openapi import openapi_document
from deploy.manifests import (
    MONITORED,
    OVERLAYS,
    OWN,
    ROOT,
    Manifest,
    container,
    environment,
    kinds,
    one,
    own_templates,
    pod_templates,
)

EVERY = [*OVERLAYS, MONITORED]
WITH_THE_API = pytest.mark.parametrize("overlay", EVERY)

# As docs/operations.md says to make it.
SECRET = {
    "CODESVC_MONGO_URI": "mongodb://codesvc:secret@mongo-0.example:27017/?replicaSet=rs0&tls=true",
    "CODESVC_JWT_SECRET": "a secret of thirty-two bytes or more",
}

# What the service takes after the drain: for connections (app.py), and for the last spans (the exporter's time limit).
CLOSING_SECONDS = 2 + 10

Overlays = dict[str, list[Manifest]]


def labels_match(selector: dict[str, str], manifest: Manifest) -> bool:
    labels: dict[str, str] = manifest["metadata"]["labels"]
    return selector.items() <= labels.items()


def api(manifests: list[Manifest]) -> Manifest:
    template = one(manifests, "Deployment", "codesvc")["spec"]["template"]
    assert isinstance(template, dict)
    return template


@WITH_THE_API
def test_no_pod_has_a_right_that_it_does_not_need(overlays: Overlays, overlay: str) -> None:
    manifests = overlays[overlay]
    (namespace,) = kinds(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert [each["automountServiceAccountToken"] for each in kinds(manifests, "ServiceAccount")] == [False]
    assert len(dict(pod_templates(manifests))) >= 2
    for name, template in pod_templates(manifests):
        pod, inside = template["spec"], container(template)
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert inside["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys(), name
        assert {"cpu", "memory"} <= inside["resources"]["requests"].keys(), name
        assert "memory" in inside["resources"]["limits"], name
        assert not any("hostPath" in volume for volume in pod.get("volumes", ())), name


@WITH_THE_API
def test_the_user_is_that_of_the_image(overlays: Overlays, overlay: str) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    users = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    uid, gid = map(int, users[-1])
    entrypoint = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', dockerfile, re.MULTILINE)
    assert entrypoint == ["codesvc"]
    for name, template in own_templates(overlays[overlay]).items():
        context = template["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (uid, gid), name
        # It writes to no file.
        assert "volumes" not in template["spec"], name
        assert "command" not in container(template), name


@WITH_THE_API
def test_every_setting_is_one_and_its_value_is_good(
    overlays: Overlays, overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = overlays[overlay]
    known = {f"CODESVC_{name.upper()}" for name in Settings.model_fields}
    own = own_templates(manifests)
    assert {"Deployment/codesvc", "Job/codesvc-indexes"} <= own.keys()
    for name, template in own.items():
        found = environment(manifests, template, SECRET)
        assert {variable for variable in found if variable.startswith("CODESVC_")} <= known, name
        with monkeypatch.context() as patched:
            for variable, value in found.items():
                patched.setenv(variable, value)
            settings = load_settings()
            if name == "Deployment/codesvc":
                settings.require_serve()
        settings.require_bucket()
        assert settings.mongo_uri == SECRET["CODESVC_MONGO_URI"], name
        assert (settings.write_concern, settings.write_journal) == ("majority", True), name
        assert settings.dev is (overlay == "dev"), name
        # Who checks no token needs no key.
        assert ("CODESVC_JWT_SECRET" in found) is (name == "Deployment/codesvc"), name


def test_the_settings_that_are_shown_as_a_comment_are_some(overlays: Overlays) -> None:
    text = (ROOT / "deploy" / "kubernetes" / "base" / "codesvc.env").read_text(encoding="utf-8")
    named = set(re.findall(r"CODESVC_[A-Z0-9_]+", text))
    assert len(named) > 10
    assert named <= {f"CODESVC_{name.upper()}" for name in Settings.model_fields}
    assert "CODESVC_JWT_SECRET=" not in text
    assert "CODESVC_MONGO_URI=" not in text


@WITH_THE_API
def test_no_secret_is_in_the_repository(overlays: Overlays, overlay: str) -> None:
    assert kinds(overlays[overlay], "Secret") == []
    for _, template in pod_templates(overlays[overlay]):
        for variable in container(template).get("env", []):
            if re.search("SECRET|PASSWORD|URI|KEY|HEADERS|USER", variable["name"]):
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "codesvc", variable


@WITH_THE_API
def test_kubernetes_sets_no_variable_behind_our_back(overlays: Overlays, overlay: str) -> None:
    """For a Service called codesvc it would set CODESVC_PORT=tcp://10.0.0.1:80, in every pod of the namespace."""
    for name, template in pod_templates(overlays[overlay]):
        assert template["spec"]["enableServiceLinks"] is False, name


@WITH_THE_API
def test_ports_agree(overlays: Overlays, overlay: str) -> None:
    manifests = overlays[overlay]
    inside = container(api(manifests))
    (port,) = inside["ports"]
    listening = environment(manifests, api(manifests), SECRET)["CODESVC_PORT"]
    exposed = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [str(port["containerPort"])] == [listening] == exposed
    (offered,) = one(manifests, "Service", "codesvc")["spec"]["ports"]
    assert offered["targetPort"] == port["name"]
    policy = one(manifests, "NetworkPolicy", "codesvc-api")["spec"]["ingress"][0]
    assert [each["port"] for each in policy["ports"]] == [port["name"]]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert inside[probe]["httpGet"]["port"] == port["name"]
    for monitor in kinds(manifests, "ServiceMonitor"):
        assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == [offered["name"]]


@WITH_THE_API
def test_paths_are_routes_of_the_service(overlays: Overlays, overlay: str) -> None:
    paths = openapi_document()["paths"]
    inside = container(api(overlays[overlay]))
    assert inside["livenessProbe"]["httpGet"]["path"] == inside["startupProbe"]["httpGet"]["path"] == "/livez"
    # A database that is away is no reason to restart anybody.
    assert inside["readinessProbe"]["httpGet"]["path"] == "/readyz"
    asked = [
        inside[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    ]
    asked += [
        endpoint["path"]
        for monitor in kinds(overlays[overlay], "ServiceMonitor")
        for endpoint in monitor["spec"]["endpoints"]
    ]
    for path in asked:
        assert "get" in paths[path], path
        assert not paths[path]["get"].get("security"), path


@pytest.mark.parametrize("overlay", ["base", *EVERY])
def test_a_pod_has_time_to_drain(overlays: Overlays, overlay: str) -> None:
    manifests = overlays[overlay]
    pod = api(manifests)["spec"]
    drain = float(environment(manifests, api(manifests), SECRET)["CODESVC_DRAIN_SECONDS"])
    # SIGTERM comes after it, and from then on new requests get 503: proxies need the time to hear that the pod goes.
    before = container(api(manifests))["lifecycle"]["preStop"]["sleep"]["seconds"]
    readiness = container(api(manifests))["readinessProbe"]
    assert before >= 5
    assert pod["terminationGracePeriodSeconds"] >= before + drain + CLOSING_SECONDS
    # The service gives MongoDB 2 s, and has an answer then.
    assert readiness["timeoutSeconds"] > 2


@WITH_THE_API
def test_a_roll_out_takes_no_pod_away_before_another_is_there(overlays: Overlays, overlay: str) -> None:
    deployment = one(overlays[overlay], "Deployment", "codesvc")["spec"]
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }
    start = container(deployment["template"])["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] < deployment["progressDeadlineSeconds"]


@WITH_THE_API
def test_selectors_find_what_they_mean_and_nothing_else(overlays: Overlays, overlay: str) -> None:
    manifests = overlays[overlay]
    serving, others = (
        api(manifests),
        [template for name, template in pod_templates(manifests) if name != "Deployment/codesvc"],
    )
    selectors = {
        "Deployment": one(manifests, "Deployment", "codesvc")["spec"]["selector"]["matchLabels"],
        "Service": one(manifests, "Service", "codesvc")["spec"]["selector"],
        "NetworkPolicy": one(manifests, "NetworkPolicy", "codesvc-api")["spec"]["podSelector"]["matchLabels"],
    }
    selectors |= {
        f"spread over {each['topologyKey']}": each["labelSelector"]["matchLabels"]
        for each in serving["spec"]["topologySpreadConstraints"]
    }
    for budget in kinds(manifests, "PodDisruptionBudget"):
        selectors["PodDisruptionBudget"] = budget["spec"]["selector"]["matchLabels"]
    for name, selector in selectors.items():
        assert labels_match(selector, serving), name
        # Above all no job: it would be sent requests.
        assert not any(labels_match(selector, template) for template in others), name
    for monitor in kinds(manifests, "ServiceMonitor"):
        assert labels_match(monitor["spec"]["selector"]["matchLabels"], one(manifests, "Service", "codesvc"))
        # The alert rules say job="codesvc".
        label = monitor["spec"]["jobLabel"]
        assert one(manifests, "Service", "codesvc")["metadata"]["labels"][label] == "codesvc"
    every = one(manifests, "NetworkPolicy", "codesvc")["spec"]["podSelector"]["matchLabels"]
    assert all(labels_match(every, template) for template in own_templates(manifests).values())


@WITH_THE_API
def test_what_is_named_is_there(overlays: Overlays, overlay: str) -> None:
    manifests = overlays[overlay]
    namespaces = {each["metadata"].get("namespace") for each in manifests if each["kind"] != "Namespace"}
    assert namespaces == {kinds(manifests, "Namespace")[0]["metadata"]["name"]}
    for template in own_templates(manifests).values():
        one(manifests, "ServiceAccount", template["spec"]["serviceAccountName"])
        for source in container(template)["envFrom"]:
            one(manifests, "ConfigMap", source["configMapRef"]["name"])
    for scaler in kinds(manifests, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        deployment = one(manifests, target["kind"], target["name"])
        assert deployment["apiVersion"] == target["apiVersion"]
        # To apply the Deployment again must not undo what the autoscaler did.
        assert "replicas" not in deployment["spec"]
        assert "cpu" in container(deployment["spec"]["template"])["resources"]["requests"]
    for policy in kinds(manifests, "NetworkPolicy"):
        if policy["metadata"]["name"] == "codesvc":
            assert {*policy["spec"]["policyTypes"]} == {"Ingress", "Egress"}
            assert policy["spec"]["ingress"] == []
            ports = {rule["port"] for each in policy["spec"]["egress"] for rule in each["ports"]}
            assert ports == {53, 27017, 443, 4317, 4318}


def test_production_has_several_pods_in_every_zone(overlays: Overlays) -> None:
    manifests = overlays["production"]
    scaler = one(manifests, "HorizontalPodAutoscaler", "codesvc")["spec"]
    assert 3 <= scaler["minReplicas"] < scaler["maxReplicas"]
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert one(manifests, "PodDisruptionBudget", "codesvc")["spec"]["maxUnavailable"] == 1
    spread = {
        each["topologyKey"]: each["whenUnsatisfiable"]
        for each in api(manifests)["spec"]["topologySpreadConstraints"]
    }
    assert spread == {
        "topology.kubernetes.io/zone": "DoNotSchedule",
        "kubernetes.io/hostname": "ScheduleAnyway",
    }
    found = environment(manifests, api(manifests), SECRET)
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"].startswith("http://otel-collector.observability:")
    assert 0 < float(found["OTEL_TRACES_SAMPLER_ARG"]) < 1


@pytest.mark.parametrize("overlay", ["production", "bulk-load"])
def test_production_runs_this_version(overlays: Overlays, overlay: str) -> None:
    images = {container(template)["image"] for template in own_templates(overlays[overlay]).values()}
    assert images == {f"registry.example.com/codesvc:{__version__}"}


def test_jobs_are_tried_again_but_not_for_a_wrong_setting(overlays: Overlays) -> None:
    for name in ("codesvc-indexes", "codesvc-bulk-load"):
        job = one(overlays["bulk-load"], "Job", name)["spec"]
        inside = container(job["template"])
        rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
        # cli.py, EXIT_USAGE.
        assert rules["FailJob"]["onExitCodes"]["values"] == [2]
        assert rules["FailJob"]["onExitCodes"]["containerName"] == inside["name"]
        assert rules["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert job["template"]["spec"]["restartPolicy"] == "Never"
    load = one(overlays["bulk-load"], "Job", "codesvc-bulk-load")["spec"]
    assert load["completionMode"] == "Indexed"
    assert load["parallelism"] < load["completions"]


def test_only_the_api_is_held_back_by_its_label(overlays: Overlays) -> None:
    """docs/operations.md applies first what has another component than `api`, and waits for the indexes."""
    held = {
        (each["kind"], each["metadata"]["name"])
        for each in overlays["production"]
        if each["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "api"
    }
    assert held == {
        (kind, "codesvc")
        for kind in ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget")
    }


def test_dev_and_compose_run_the_same(overlays: Overlays) -> None:
    services: Any = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    templates = dict(pod_templates(overlays["dev"]))
    names = {"StatefulSet/mongo": "mongo", "StatefulSet/s3": "s3", "Job/bucket": "bucket"}
    for workload, service in names.items():
        assert container(templates[workload])["image"] == services[service]["image"]
    assert templates.keys() == names.keys() | {"Deployment/codesvc", "Job/codesvc-indexes"}
    probe = container(templates["StatefulSet/mongo"])["readinessProbe"]["exec"]["command"]
    assert [line.strip() for line in probe[-1].split()] == services["mongo"]["healthcheck"]["test"][
        -1
    ].split()
    assert one(overlays["dev"], "Deployment", "codesvc")["spec"]["replicas"] == 1
    for template in templates.values():
        assert template["metadata"]["labels"][OWN] in {"codesvc", "mongo", "s3"}


def test_compose_gives_the_service_time_to_drain() -> None:
    services: Any = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    drain = float(services["codesvc"]["environment"].get("CODESVC_DRAIN_SECONDS", Settings().drain_seconds))
    assert int(services["codesvc"]["stop_grace_period"].removesuffix("s")) >= drain + 10
