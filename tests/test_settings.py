"""Settings: what is refused, that all of it is said at once, and that no secret is shown."""

import ipaddress
import os
from pathlib import Path

import pytest

from gateway.settings import Settings, SettingsFault
from gateway.settings.__main__ import reference
from gateway.values import Role

DOCS = Path(__file__).parent.parent / "docs"
ADMIN_KEY = "gwa_" + "k" * 40


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("GATEWAY_"):
            monkeypatch.delenv(name)


def faults(**given: object) -> tuple[str, ...]:
    with pytest.raises(SettingsFault) as caught:
        Settings.read(**given)
    return caught.value.faults


def test_an_empty_environment_is_a_gateway_on_loopback() -> None:
    settings = Settings.read()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.private_upstreams == settings.trusted_proxies == ()
    assert settings.hosts == {"127.0.0.1", "::1", "localhost"}


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "")
    assert Settings.read().port == 8080


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PRIVATE_UPSTREAMS", "10.0.0.0/8, fd00::/8")
    monkeypatch.setenv("GATEWAY_ALLOWED_HOSTS", "a.example,B.example")
    settings = Settings.read()
    assert settings.private_upstreams == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("fd00::/8"),
    )
    assert {"a.example", "b.example"} <= settings.hosts


def test_an_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "1234")
    assert Settings.read(port=0).port == 0
    assert Settings.read(port=None).port == 1234


def test_every_fault_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "70000")
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "gateway.example")
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXIES", "10.0.0.0/8,10.0.0")
    monkeypatch.setenv("GATEWAY_PRIVATE_UPSTREAMS", "10.0.0.1/8")
    monkeypatch.setenv("GATEWAY_OPA_BIN", "/nowhere/opa")
    monkeypatch.setenv("GATEWAY_LOG_LEVEL", "loud")
    monkeypatch.setenv("GATEWAY_SURPRISE", "1")
    named = [fault.split(":")[0] for fault in faults()]
    assert sorted(named) == sorted(
        [
            "GATEWAY_PORT",
            "GATEWAY_PUBLIC_URL",
            "GATEWAY_TRUSTED_PROXIES",
            "GATEWAY_PRIVATE_UPSTREAMS",
            "GATEWAY_OPA_BIN",
            "GATEWAY_LOG_LEVEL",
            "GATEWAY_SURPRISE",
        ]
    )


def test_a_misspelt_name_is_a_fault_that_names_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXY", "10.0.0.0/8")
    assert faults() == (
        "GATEWAY_TRUSTED_PROXY: no such setting; did you mean GATEWAY_TRUSTED_PROXIES?",
    )


def test_variables_that_kubernetes_makes_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SERVICE_HOST", "10.1.2.3")
    monkeypatch.setenv("GATEWAY_PORT", "tcp://10.1.2.3:80")
    said = faults()
    assert len(said) == 2
    assert all("enableServiceLinks" in fault for fault in said)


@pytest.mark.parametrize("name", ["host", "management_host"])
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_bind_beyond_loopback_in_clear_is_refused(name: str, address: str) -> None:
    (fault,) = faults(**{name: address})
    assert f"GATEWAY_{name.upper()}={address}" in fault
    assert "GATEWAY_BIND_ANYWAY" in fault


@pytest.mark.parametrize(
    "given",
    [{"bind_anyway": True}, {"trusted_proxies": "10.0.0.0/8"}, {"tls": True}],
    ids=["told so", "behind a proxy", "with TLS"],
)
def test_a_bind_beyond_loopback_passes_when_keys_are_safe(
    given: dict[str, object], tmp_path: Path
) -> None:
    if given.pop("tls", False):
        for name in ("tls_cert", "tls_key"):
            (tmp_path / name).touch()
            given[name] = tmp_path / name
    assert Settings.read(host="0.0.0.0", **given).host == "0.0.0.0"


def test_half_a_certificate_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    (fault,) = faults(tls_cert=tmp_path / "cert.pem")
    assert "both, or neither" in fault


@pytest.mark.parametrize("loopback", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_excuse(loopback: str) -> None:
    assert Settings.read(host=loopback).host == loopback


def test_a_host_name_is_no_address_to_listen_on() -> None:
    (fault,) = faults(host="gateway.example")
    assert "must be an IP address" in fault


def test_both_listeners_cannot_share_a_port_but_may_both_be_free_ones() -> None:
    (fault,) = faults(port=9000, management_port=9000)
    assert "must differ" in fault
    assert Settings.read(port=0, management_port=0).port == 0


@pytest.mark.parametrize(
    "url", ["https://u:p@x.example", "https://x.example/base", "https://x.example?a", "ftp://x"]
)
def test_a_public_url_is_a_scheme_and_a_host(url: str) -> None:
    assert faults(public_url=url)[0].startswith("GATEWAY_PUBLIC_URL: must ")


def test_the_public_name_is_an_allowed_host() -> None:
    assert "gw.example" in Settings.read(public_url="https://GW.example:444/").hosts


def test_an_origin_has_no_path() -> None:
    assert "is no origin" in faults(allowed_origins="https://app.example/")[0]


def test_secrets_are_never_shown() -> None:
    assert ADMIN_KEY not in repr(Settings.read(admin_key=ADMIN_KEY))
    (fault,) = faults(admin_key="gwa_tooshort")
    assert "tooshort" not in fault


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.read().port = 1


def test_paths_do_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.read(data_dir="somewhere")
    monkeypatch.chdir("/")
    assert settings.data_dir == tmp_path / "somewhere"


def test_every_setting_says_who_would_change_it() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        assert extra["changed_by"], name


def test_the_page_of_settings_is_the_one_that_the_class_writes() -> None:
    page = DOCS / "settings.md"
    assert page.read_text() == reference(), "run `python -m gateway.settings > docs/settings.md`"


def test_people_of_a_provider_need_roles_and_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_OIDC_ISSUER", "https://login.example.com")
    monkeypatch.setenv("GATEWAY_OIDC_ROLES", "ops=admin,cn=on=call = approver")
    with pytest.raises(SettingsFault, match="GATEWAY_OIDC_CLIENT_ID"):
        Settings.read()
    monkeypatch.setenv("GATEWAY_OIDC_CLIENT_ID", "gateway")
    assert Settings.read().oidc_roles == (("ops", Role.ADMIN), ("cn=on=call", Role.APPROVER))
    for roles in ("ops=root", "ops", "=admin", "ops=project", ""):
        monkeypatch.setenv("GATEWAY_OIDC_ROLES", roles)
        with pytest.raises(SettingsFault, match="GATEWAY_OIDC_ROLES"):
            Settings.read()
