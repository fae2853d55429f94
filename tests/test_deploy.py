"""What `deploy/` holds is what its readers and the gateway take.

What it starts is started in `tests/end_to_end/test_deployed.py`.
"""

import ipaddress
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from packaging.requirements import Requirement

from gateway.app import DRAIN_SECONDS
from gateway.listeners import GRACE_SECONDS
from gateway.policy.opa_binary import OPA_VERSION
from gateway.policy.sidecar import environment_of, start_command, url_of
from gateway.settings import Settings
from tests.audit.lock import pinned
from tests.conftest import needs
from tests.deploy_files import (
    DEPLOY,
    GATEWAYS,
    ROOT,
    compose,
    documents,
    manifest,
    pod,
    services,
    sidecar,
)
from tests.end_to_end.nginx import GET_NGINX, configured
from tests.test_cli import gateway

FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
KUBERNETES = ("1.30", "1.37")
"""The oldest that is looked after when this was written, give or take one, and the newest."""


def instructions(word: str) -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{word} (.*)$", text, re.M)


def start_commands() -> Iterator[list[str]]:
    yield from (services()[name]["command"] for name in GATEWAYS)
    yield from (one["args"] for one in pod()["containers"])
    yield from (json.loads(words) for words in instructions("CMD"))
    unit = (DEPLOY / "policy-gateway.service").read_text()
    yield from (shlex.split(line)[1:] for line in re.findall(r"^ExecStart=(.*)$", unit, re.M))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_that_a_file_names_exists(path: Path) -> None:
    known = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    known |= set(re.findall(r"\$\{(\w+)\}", (ROOT / "opa-config.yaml").read_text()))
    assert set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", path.read_text())) <= known


@pytest.mark.parametrize("words", list(start_commands()), ids=" ".join)
def test_every_command_and_option_that_is_started_exists(words: list[str]) -> None:
    assert gateway(*words, "--help").exit_code == 0


def test_the_image_copies_what_is_there_and_what_is_not_kept_out_of_the_build() -> None:
    own = [words.split() for words in instructions("COPY") if not words.startswith("--from")]
    copied = {name for *names, _ in own for name in names}
    assert all((ROOT / name).exists() for name in copied)
    let_in = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)
    assert copied == set(let_in)


def test_the_image_holds_the_pinned_opa_and_runs_as_nobody_in_particular() -> None:
    assert f"openpolicyagent/opa:{OPA_VERSION}-static AS opa" in instructions("FROM")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instructions("USER")[-1])
    opa = re.search(r"GATEWAY_OPA_BIN=(\S+)", instructions("ENV")[-1])
    assert opa is not None
    assert f"--from=opa /opa {opa[1]}" in instructions("COPY")
    assert any("--require-hashes" in words for words in instructions("RUN"))


def test_the_image_can_do_what_the_files_ask_of_it_in_the_versions_that_are_tested() -> None:
    [lock] = [words.split()[0] for words in instructions("COPY") if ".lock" in words]
    image = set(pinned((ROOT / lock).read_text()))
    assert image <= set(pinned((ROOT / "requirements-dev.lock").read_text()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in extras for one in extras[name])]
    demo = {Requirement(one).name for one in extras["demo"]}
    assert {Requirement(one).name for one in wanted} - demo <= {name for name, _ in image}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_knows_every_field_of_a_manifest(path: Path, version: str) -> None:
    for document in documents(path):
        if document["kind"] != "Kustomization":
            kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_noticed() -> None:
    wrong = manifest("StatefulSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


def test_compose_knows_every_field_of_its_file() -> None:
    schema = json.loads((ROOT / "tests/schemas/compose-spec.json").read_text())
    checked = jsonschema.Draft202012Validator(schema)
    checked.validate(compose())
    wrong = compose()
    wrong["services"]["nginx"]["volume"] = []
    with pytest.raises(jsonschema.ValidationError):
        checked.validate(wrong)


def test_what_is_written_lies_in_a_volume_and_the_root_is_read_only() -> None:
    [volume] = instructions("VOLUME")
    for name in ("GATEWAY_DATA_DIR", "GATEWAY_TOOLS_DIR"):
        assert f"{name}={volume}/" in instructions("ENV")[-1]
    for service in services().values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        for mounted in service["volumes"]:
            name = mounted.partition(":")[0]
            assert name in compose()["volumes"] or mounted.endswith(":ro")
    for one in (*pod()["initContainers"], *pod()["containers"]):
        assert ({"name": "data", "mountPath": volume} in one["volumeMounts"]) == (one != sidecar())
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod()["securityContext"]["runAsNonRoot"] is True


def test_the_two_gateways_of_compose_share_the_keys_and_nothing_else() -> None:
    [volume] = instructions("VOLUME")
    mounted = [services()[name]["volumes"] for name in GATEWAYS]
    keys = f"keys:{volume}/data/keys"
    assert [own for _, own in mounted] == [keys, keys]
    assert len({own for own, _ in mounted}) == 2
    assert all(own.endswith(f":{volume}") for own, _ in mounted)
    # Docker gives a volume to the owner of what the image has there.
    [made] = [words for words in instructions("RUN") if "useradd" in words]
    assert f"{volume}/data/keys" in made
    one, two = ({**services()[name]} for name in GATEWAYS)
    for own in ("volumes", "networks"):
        assert one.pop(own) != two.pop(own)
    assert one == two


def test_nginx_of_compose_finds_both_gateways_and_only_nginx_is_believed() -> None:
    subnet = ipaddress.ip_network(compose()["networks"]["inside"]["ipam"]["config"][0]["subnet"])
    named = dict(line.split(":") for line in services()["nginx"]["extra_hosts"])
    inside = {name: one["networks"]["inside"] for name, one in services().items() if inside_of(one)}
    addresses = {name: one["ipv4_address"] for name, one in inside.items()}
    assert all(ipaddress.ip_address(one) in subnet for one in addresses.values())
    assert named == {name: addresses[name] for name in GATEWAYS}
    given = services()[GATEWAYS[0]]["environment"]
    assert given["GATEWAY_TRUSTED_PROXIES"] == f"{addresses['nginx']}/32"
    servers = re.findall(r"server (\S+):8080 ", (DEPLOY / "nginx.conf").read_text())
    assert set(servers) == set(GATEWAYS)
    # The database is reached by gateways alone, and nobody reaches it from outside.
    with_database = {name for name, one in services().items() if "database" in one["networks"]}
    assert with_database == {*GATEWAYS, "postgres"}
    assert services()["postgres"]["networks"] == ["database"]
    assert compose()["networks"]["database"]["internal"] is True
    assert [name for name, one in services().items() if "ports" in one] == ["nginx"]


def inside_of(service: dict[str, Any]) -> bool:
    return "inside" in service["networks"]


def test_the_manifests_belong_together() -> None:
    [kustomization] = documents(DEPLOY / "kubernetes" / "kustomization.yaml")
    there = {path.name for path in MANIFESTS} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert manifest("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    [spread] = pod()["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    replicas = manifest("StatefulSet")["spec"]["replicas"]
    assert 1 <= manifest("PodDisruptionBudget")["spec"]["minAvailable"] < replicas
    containers = [*pod()["initContainers"], *pod()["containers"]]
    assert {one["image"] for one in containers} == {services()[GATEWAYS[0]]["image"]}
    volumes = {one["name"] for one in pod()["volumes"]}
    volumes |= {
        one["metadata"]["name"] for one in manifest("StatefulSet")["spec"]["volumeClaimTemplates"]
    }
    assert {one["name"] for each in containers for one in each["volumeMounts"]} == volumes
    ports = {port["name"]: port["containerPort"] for port in pod()["containers"][0]["ports"]}
    assert ports == {
        "http": Settings.model_fields["port"].default,
        "management": Settings.model_fields["management_port"].default,
    }


def test_only_the_ingress_reaches_a_pod_and_it_reaches_what_it_needs() -> None:
    policy = manifest("NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    [rule] = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["http"]
    assert all("namespaceSelector" in one for one in rule["from"])
    ports = {(port["port"], port["protocol"]) for one in policy["egress"] for port in one["ports"]}
    assert ports == {(53, "UDP"), (53, "TCP"), (5432, "TCP"), (443, "TCP")}


def test_the_sidecar_is_started_as_the_command_that_prepares_its_folder_says() -> None:
    [init, opa], [container] = pod()["initContainers"], pod()["containers"]
    folder = Path("/run/opa/own")
    assert f"gateway opa sidecar {folder}" in init["args"][0]
    words = [part for word in opa["command"] for part in word.split("=", 1)]
    own = {"--diagnostic-addr", f"0.0.0.0:{opa['ports'][0]['containerPort']}"}
    assert [word for word in words if word not in own] == start_command(folder)
    given = {one["name"]: one["value"] for one in opa["env"]}
    port = Settings.model_fields["management_port"].default
    expected = environment_of(folder, f"http://127.0.0.1:{port}")
    memory = f"{int(expected.pop('GOMEMLIMIT')) >> 20}MiB"
    assert given == {**expected, "GOMEMLIMIT": memory}
    asked = {one["name"]: one.get("value") for one in container["env"]}
    assert asked["GATEWAY_OPA_URL"] == url_of(folder)
    assert opa["volumeMounts"] == [{"name": "opa", "mountPath": str(folder.parent)}]
    assert all(opa["volumeMounts"][0] in one["volumeMounts"] for one in (init, container))


def test_a_pod_that_is_told_to_end_is_given_the_time_that_it_needs() -> None:
    [container] = pod()["containers"]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    needed = DRAIN_SECONDS + 2 * GRACE_SECONDS
    assert pod()["terminationGracePeriodSeconds"] - before > needed
    for name in GATEWAYS:
        assert int(services()[name]["stop_grace_period"].removesuffix("s")) > needed


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze", "on Debian: apt-get install systemd")
    unit = tmp_path / "policy-gateway.service"
    text = (DEPLOY / unit.name).read_text()
    program = tmp_path / "gateway"  # no blank in its path, which a checkout's may have
    program.symlink_to(sys.executable)
    unit.write_text(text.replace("/opt/policy-gateway/bin/gateway", str(program)))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="):
        assert line in text.splitlines()


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    nginx = needs("nginx", GET_NGINX)
    path = configured(tmp_path / "nginx", (8080, 8081), 8443)
    done = subprocess.run([nginx, "-t", "-c", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
