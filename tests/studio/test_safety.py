"""Who may ask: names, sites, keys, sizes; and what every answer allows a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from kinolab.studio import app as served
from kinolab.studio import command
from kinolab.studio.api import routes
from kinolab.studio.project import Project
from kinolab.studio.safety import POLICY, Rules, is_loopback
from tests.studio.asking import PORT, TOKEN, URL, client, ok, refused


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client(tmp_path_factory.mktemp("studio") / "p") as found:
        yield found


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", "",
        f"localhost.evil.example:{PORT}", f"0.0.0.0:{PORT}", f"192.168.0.7:{PORT}",
    ],
)  # fmt: skip
def test_another_name_than_its_own_is_refused(page: TestClient, host: str) -> None:
    assert "name or address" in refused(page.get("/api/project", headers={"host": host}), 403)


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_its_own_names_are_answered(page: TestClient, host: str) -> None:
    cookie = {"cookie": f"kinolab_studio_{PORT}={TOKEN}"}
    assert ok(page.get("/api/project", headers={"host": host, **cookie}))["jobs"] == []


@pytest.mark.parametrize("origin", ["http://evil.example", "null", f"https://127.0.0.1:{PORT}", "http://127.0.0.1",
                                    f"http://127.0.0.1:{PORT}.evil.example", "file://"])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_of_another_site_is_refused(page: TestClient, origin: str, method: str) -> None:
    answer = page.request(method, "/api/jobs", headers={"origin": origin}, json={} if method == "POST" else None)
    assert "another site" in refused(answer, 403)


def test_its_own_page_is_answered(page: TestClient) -> None:
    own = {"origin": f"http://127.0.0.1:{PORT}", "sec-fetch-site": "same-origin"}
    assert ok(page.get("/api/jobs", headers=own)) == {"jobs": [], "paused": False}


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_that_the_browser_says_is_another_sites_is_refused(page: TestClient, site: str) -> None:
    refused(page.get("/api/jobs", headers={"sec-fetch-site": site}), 403)
    refused(page.get("/files/samples/a.mp4", headers={"sec-fetch-site": site, "sec-fetch-mode": "navigate"}), 403)
    followed = page.get("/", headers={"sec-fetch-site": site, "sec-fetch-mode": "navigate"})
    assert followed.status_code == 200  # a link that leads to the page


def test_without_the_key_nothing_is_answered(tmp_path: Path) -> None:
    with client(tmp_path / "p", token=False) as page:
        for path in ("/", "/api/project", "/api/stream", "/files/clips/a.mp4", "/posters/a.mp4", "/icon.svg"):
            assert "kinolab studio" in refused(page.get(path), 401)
        refused(page.get("/?token=another"), 401)
        read = page.get("/", headers={"accept": "text/html,*/*"})  # by a person
        assert read.status_code == 401 and read.text.startswith("Kinolab studio: open the address")
        page.cookies.set(f"kinolab_studio_{PORT}", "another")
        refused(page.get("/api/project"), 401)


def test_the_printed_address_sets_the_key_and_leaves_it_out_of_the_address(tmp_path: Path) -> None:
    with client(tmp_path / "p", token=False) as page:
        entered = page.get(f"/?token={TOKEN}", follow_redirects=False)
        assert entered.status_code == 303 and entered.headers["location"] == "/"
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and f"kinolab_studio_{PORT}=" in cookie
        assert ok(page.get("/api/project"))["name"] == "p"


def test_what_changes_something_says_so_in_a_header_that_a_form_cannot_set(page: TestClient) -> None:
    for sign in ("", "0", "2"):
        answer = page.post("/api/queue", json={"paused": True}, headers={"x-kinolab": sign})
        assert "X-Kinolab" in refused(answer, 403)
    text = page.post("/api/queue", content='{"paused": true}', headers={"content-type": "text/plain"})
    assert "application/json" in refused(text)
    assert ok(page.get("/api/jobs"))["paused"] is False


def test_what_is_too_large_is_refused_by_what_it_says_and_by_what_it_is(page: TestClient) -> None:
    assert "larger" in refused(page.post("/api/command", content=b" " * (2**20 + 1)), 413)

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 2**15

    streamed = page.post("/api/command", content=endless(), headers={"content-type": "application/json"})
    assert "larger" in refused(streamed, 413)


def test_a_file_that_is_larger_than_uploads_may_be_is_refused_and_nothing_of_it_stays(tmp_path: Path) -> None:
    rules = Rules("127.0.0.1", PORT, TOKEN, {"/api/clips": 1000, "/api/given": 1000, "/api/samples/settings": 1000})
    key = {"cookie": f"kinolab_studio_{PORT}={TOKEN}", "x-kinolab": "1"}
    with TestClient(served.make_app(Project.open(tmp_path / "p"), rules), base_url=URL, headers=key) as page:
        for path in rules.uploads:
            assert "larger" in refused(page.post(f"{path}?name=a.mp4", content=b" " * 1001), 413)
            streamed = (b" " * 300 for _ in range(4))  # says nothing of its size
            assert "larger" in refused(page.post(f"{path}?name=a.mp4", content=streamed), 413)
    for path in routes.UPLOADS:
        assert Rules("127.0.0.1", PORT, TOKEN).limit(path) < routes.UPLOADS[path][1] < 2**35
    assert not [path for path in (tmp_path / "p").rglob("*") if path.is_file()]


def test_every_answer_has_the_policy_and_no_other_site_is_in_it(page: TestClient) -> None:
    for path in ("/", "/icon.svg", "/api/project", "/api/nothing", "/files/none.mp4"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert policy == POLICY or policy.startswith("sandbox")
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers


def test_the_page_holds_no_script_and_no_style_in_line_and_names_no_other_host() -> None:
    files = [path for path in served.STATIC.rglob("*") if path.is_file()]
    html = (served.STATIC / "index.html").read_text("utf-8")
    assert "<style" not in html and "style=" not in html and "<script>" not in html and "onclick" not in html
    assert {path.suffix for path in files} <= {".html", ".js", ".css", ".svg"}
    for path in files:
        text = path.read_text("utf-8")
        hosts = {word.split("/")[2] for word in text.replace('"', " ").replace("'", " ").replace("`", " ").split()
                 if word.startswith(("http://", "https://"))}  # fmt: skip
        assert hosts <= {"www.w3.org", "svelte.dev"}, f"{path.name}: {hosts}"  # names of SVG, and in errors' texts
        assert "eval(" not in text and "new Function" not in text


@pytest.mark.parametrize("path", ["../queue/.token", "%2e%2e/%2e%2e/etc/passwd", "clips/../queue/.token", "/etc/passwd",
                                  "queue/.token", "data.yaml", "clips/.studio/a.mp4", "..%5c..%5cx.mp4"])  # fmt: skip
def test_no_file_outside_or_hidden_and_nothing_but_pictures_is_served(page: TestClient, path: str) -> None:
    for begin in ("/files/", "/posters/", "/play/", "/"):
        answer = page.get(begin + path)
        assert answer.status_code == 404 and set(answer.json()) == {"error"}


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    with client(tmp_path / "p") as page:
        (tmp_path / "p" / "clips" / "a.mp4").symlink_to(tmp_path / "secret.mp4")
        (tmp_path / "p" / "samples" / "out").symlink_to(tmp_path)
        for path in ("/files/clips/a.mp4", "/play/a.mp4", "/files/samples/out/secret.mp4"):
            assert b"secret" not in page.get(path).content.replace(b"secret.mp4", b"")


def test_a_script_in_a_clips_folder_is_never_served_as_one(tmp_path: Path) -> None:
    with client(tmp_path / "p") as page:
        for name in ("a.html", "a.svg", "a.js", "a.mp4.html"):
            (tmp_path / "p" / "clips" / name).write_text("<script>alert(1)</script>")
            assert page.get(f"/files/clips/{name}").status_code == 404


def test_a_key_is_kept_outside_the_project_and_believed_only_where_nobody_else_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "keys", lambda: tmp_path / "keys")
    project = Project.open(tmp_path / "p")
    planted = "known-to-whoever-made-this-project-" + "x" * 20
    (project.queue / ".token").write_text(planted)
    (project.queue / ".token").chmod(0o600)
    token = command.kept_token(project)
    assert token != planted and command.kept_token(project) == token
    (kept,) = (tmp_path / "keys").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.chmod(0o640)
    other = command.kept_token(project)
    assert other != token and kept.stat().st_mode & 0o777 == 0o600
    (tmp_path / "planted").write_text(planted)
    (tmp_path / "planted").chmod(0o600)
    kept.unlink()
    kept.symlink_to(tmp_path / "planted")
    assert command.kept_token(project) not in (planted, other) and not kept.is_symlink()


def test_a_large_body_is_taken_at_its_own_path_alone(page: TestClient) -> None:
    for path in ("/api/clips/look", "/api/clips/nothing", "/api/samples/settings/x", "/api/givenx"):
        assert "larger" in refused(page.post(path, headers={"content-length": str(2**21)}), 413)


@pytest.mark.parametrize("other", ['foo={"a":1}; ', "a b; ", "x=\x01; =; ", ""])
def test_odd_cookies_of_other_servers_hide_the_key_not(page: TestClient, other: str) -> None:
    cookie = f"{other}kinolab_studio_{PORT}={TOKEN}; last=1"
    assert page.get("/api/jobs", headers={"cookie": cookie}).status_code == 200
    refused(page.get("/api/jobs", headers={"cookie": cookie.replace(TOKEN, TOKEN[:-1])}), 401)


def test_at_the_port_of_http_a_host_says_none() -> None:
    rules = Rules("127.0.0.1", 80, TOKEN)
    assert all(rules.names(host) for host in ("127.0.0.1", "localhost:80", "[::1]", "[::1]:80"))
    assert not any(rules.names(host) for host in ("", "evil.example", "127.0.0.1:8470", ":80"))
    assert not Rules("127.0.0.1", PORT, TOKEN).names("[::1]")


def test_a_server_for_other_machines_answers_numbers_and_its_own_name_and_no_other() -> None:
    rules = Rules("0.0.0.0", PORT, TOKEN)
    assert rules.names(f"192.168.0.7:{PORT}") and rules.names(f"[fe80::1]:{PORT}")
    assert not rules.names(f"evil.example:{PORT}")
    assert Rules("lab.example", PORT, TOKEN).names(f"lab.example:{PORT}")
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("lab.example")
