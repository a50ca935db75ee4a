"""Fetching of public weights: by hash or not at all, and nothing half-written."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from kinolab.errors import InputError
from kinolab.metrics.extractors.manifest import fetch, load_manifest

pytestmark = pytest.mark.slow  # many short ones, which take long together

CONTENT = bytes(range(256)) * 20
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """The weights at /weights.pt, half of them at /cut.pt, nothing elsewhere."""

    def do_GET(self) -> None:
        if self.path not in ("/weights.pt", "/cut.pt"):
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/weights.pt" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def manifest(tmp_path: Path, url: str, **entry: object) -> Path:
    path = tmp_path / "manifest.yaml"
    values = {"file": "weights.pt", "url": url, "sha256": HASH, "license": "none"} | entry
    path.write_text(yaml.safe_dump({"tiny": values}))
    return path


def test_a_file_is_fetched_once(tmp_path: Path, address: str) -> None:
    listed = manifest(tmp_path, f"{address}/weights.pt")
    path = fetch("tiny", tmp_path / "cache", manifest=listed)
    assert path == tmp_path / "cache" / "weights.pt" and path.read_bytes() == CONTENT
    again = manifest(tmp_path, "http://127.0.0.1:9/gone")
    assert fetch("tiny", tmp_path / "cache", manifest=again) == path
    assert [p.name for p in path.parent.iterdir()] == ["weights.pt"]


def test_files_on_disk_have_urls_too(tmp_path: Path) -> None:
    (tmp_path / "source.pt").write_bytes(CONTENT)
    listed = manifest(tmp_path, (tmp_path / "source.pt").as_uri())
    assert fetch("tiny", tmp_path, manifest=listed).read_bytes() == CONTENT


def test_another_hash_keeps_nothing(tmp_path: Path, address: str) -> None:
    listed = manifest(tmp_path, f"{address}/cut.pt")
    with pytest.raises(InputError, match=f"cut.pt: expected sha256 {HASH}, got [0-9a-f]{{64}}; nothing was kept"):
        fetch("tiny", tmp_path / "cache", manifest=listed)
    assert not list((tmp_path / "cache").iterdir())


def test_a_wrong_file_in_the_folder_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"weights\.pt: expected sha256"):
        fetch("tiny", tmp_path, manifest=manifest(tmp_path, "http://127.0.0.1:9/x"))
    assert (tmp_path / "weights.pt").read_bytes() == b"mine"


def test_no_network_and_no_page_are_one_line(tmp_path: Path, address: str) -> None:
    with pytest.raises(
        InputError, match=r"tiny: no network to http://127\.0\.0\.1:9/x .*; bring the file to .*by hand"
    ):
        fetch("tiny", tmp_path / "cache", manifest=manifest(tmp_path, "http://127.0.0.1:9/x"))
    with pytest.raises(InputError, match=r"tiny: .* answered 404"):
        fetch("tiny", tmp_path / "cache", manifest=manifest(tmp_path, f"{address}/other.pt"))
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_known_hash_the_user_states_it(tmp_path: Path, address: str) -> None:
    listed = manifest(tmp_path, f"{address}/weights.pt", sha256=None, reason="its page states none")
    with pytest.raises(InputError, match=r"not known for sure \(its page states none\); state sha256=\.\.\."):
        fetch("tiny", tmp_path, manifest=listed)
    assert fetch("tiny", tmp_path, manifest=listed, sha256=HASH.upper()).read_bytes() == CONTENT


def test_a_stated_hash_must_be_the_manifests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"the manifest has sha256 {HASH}, you stated {'0' * 64}"):
        fetch("tiny", tmp_path, manifest=manifest(tmp_path, "http://127.0.0.1:9/x"), sha256="0" * 64)


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'i3d_torchscrip': no such weights; .* did you mean 'i3d_torchscript'"):
        fetch("i3d_torchscrip", tmp_path)


def test_a_manifest_without_a_hash_or_a_reason_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a file without a hash needs the reason"):
        load_manifest(manifest(tmp_path, "http://127.0.0.1:9/x", sha256=None))


def test_names_that_carry_the_start_of_a_hash_carry_the_manifests() -> None:
    """torch's files are named after the first eight digits of their sha256."""
    named = {n: re.search(r"-([0-9a-f]{8})\.pth$", entry.file) for n, entry in load_manifest().items()}
    starts = {n: found[1] for n, found in named.items() if found}
    assert set(starts) == {"inception", "inception_torchvision", "alexnet", "vgg16"}
    assert all((load_manifest()[n].sha256 or "").startswith(start) for n, start in starts.items())
