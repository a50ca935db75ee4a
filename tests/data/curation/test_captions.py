"""Captions by a command and by a server of the test's own: resumable, kept by content, nothing lost on the way."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from kinolab import video
from kinolab.data.curation import captioners
from kinolab.data.curation.captioners import AskError, Captioner, Command, Model, Server, even_frames
from kinolab.data.curation.captions import KEPT, caption
from kinolab.data.curation.texts import SEEN, Texts
from kinolab.errors import InputError
from kinolab.runtime.processes import packed, unpacked
from kinolab.runtime.remote import Mirror
from tests.engines.folders import files_of
from tests.engines.inside import Inside


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for k in range(4):
        frames = np.full((5, 32, 32, 3), 40 * k + 20, np.uint8)
        frames[2] += 9
        video.write(tmp_path / f"{k}.mkv", frames, fps=8, lossless=True)
    (tmp_path / "0.txt").write_text("by hand", encoding="utf-8")
    return tmp_path


def texts(folder: Path) -> dict[str, str]:
    return {p.stem: p.read_text(encoding="utf-8").strip() for p in sorted(folder.glob("*.txt"))}


class Spoken(Captioner):
    """Says the clip's name, and counts."""

    def __init__(self, failing: dict[str, AskError] | None = None) -> None:
        self.asked: list[str] = []
        self.failing = failing or {}

    def __str__(self) -> str:
        return "spoken"

    def protocol(self) -> dict[str, Any]:
        return {"spoken": 1}

    def ask(self, clip: Path) -> str:
        self.asked.append(clip.name)
        if clip.name in self.failing:
            raise self.failing[clip.name]
        return f"  clip\n {clip.stem} "


class Other(Spoken):
    """Another one who says the same."""

    def protocol(self) -> dict[str, Any]:
        return {"spoken": 2}


def test_texts_beside_the_clips_kept_by_content_and_others_left_alone(clips: Path) -> None:
    said = Spoken({"2.mkv": AskError("no idea")})
    found = caption(clips, said)
    assert (found.asked, found.known, found.others, found.failed) == (2, 0, 1, ("2.mkv: no idea",))
    assert texts(clips) == {"0": "by hand", "1": "clip 1", "3": "clip 3"}
    (clips / "1.txt").unlink()
    (clips / "9.mkv").write_bytes((clips / "3.mkv").read_bytes())
    again = Spoken()
    found = caption(clips, again)
    assert again.asked == ["2.mkv"] and (found.asked, found.known, found.others) == (1, 3, 1)
    assert texts(clips) == {"0": "by hand", "1": "clip 1", "2": "clip 2", "3": "clip 3", "9": "clip 3"}
    assert caption(clips, Spoken(), overwrite=True).asked == 1 and texts(clips)["0"] == "clip 0"


def test_one_who_is_gone_ends_the_call_in_a_line_and_what_was_said_stays(clips: Path) -> None:
    gone = {f"{k}.mkv": AskError("no answer", gone=True) for k in (1, 2, 3)}
    with pytest.raises(InputError, match="spoken: no answer; 0 clips are captioned, run it again to go on"):
        caption(clips, Spoken(gone))
    assert (clips / KEPT).read_bytes() == b"" and texts(clips) == {"0": "by hand"}


def test_metadata_of_a_curated_folder_gets_them(clips: Path) -> None:
    rows = [{"file_name": f"{k}.mkv", "text": None, "motion": k} for k in range(3)]
    (clips / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    caption(clips, Spoken())
    lines = (clips / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["by hand", "clip 1", "clip 2"]


def test_in_a_store_they_are_what_they_would_be_on_a_disk_and_go_on_from_another_machine(
    clips: Path, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(json.dumps({"file_name": f"{k}.mkv", "text": None}) + "\n" for k in range(3))
    (clips / "metadata.jsonl").write_text(rows, encoding="utf-8")
    (clips / "9.mkv").write_bytes((clips / "3.mkv").read_bytes())
    names = [path.name for path in clips.iterdir() if path.is_file()]
    for name in names:
        store.pipe_file(f"/b/set/{name}", (clips / name).read_bytes())
    there, fetched, get, put = Path("memory://b/set"), list[str](), Mirror.get, Mirror.put

    def counting(self: Mirror, name: str, entry: Any, path: Path) -> None:
        fetched.append(name)
        get(self, name, entry, path)

    def stopping(self: Mirror, name: str) -> None:
        if name == "3.txt":
            raise InputError("no answer")
        put(self, name)

    monkeypatch.setattr(Mirror, "get", counting)
    with pytest.raises(InputError, match="no answer"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mirror, "put", stopping)
        caption(there, Spoken(), disk_gb=1e-3)
    assert sorted(fetched) == ["0.txt", *(f"{k}.mkv" for k in (1, 2, 3, 9)), "metadata.jsonl"]
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    fetched.clear()
    again = Spoken({"2.mkv": AskError("no idea")})
    found = caption(there, again, disk_gb=1e-3)
    assert again.asked == [] and (found.asked, found.known, found.others) == (0, 4, 1), "was said to the other machine"
    assert not any(name.endswith(".mkv") for name in fetched), "nor need a clip be fetched to be known"
    disk = tmp_path / "disk"
    disk.mkdir()
    for name in names:
        shutil.copy(clips / name, disk)
    caption(disk, Spoken())
    on_disk = {name: data for name, data in files_of(disk).items() if not name.endswith(".lock")}
    in_store = {name.removeprefix("/b/set/"): store.cat_file(name) for name in store.find("/b/set")}
    del in_store[SEEN]
    assert in_store == on_disk and texts(disk)["9"] == "clip 3"
    with Mirror("memory://b/set").writing(), pytest.raises(InputError, match="another kinolab is writing there"):
        caption(there, Spoken())
    for path, cause in (
        ("memory://b/gone", "no such bucket or folder"),
        ("memory://b/set/1.mkv", "one clip; expected"),
    ):
        with pytest.raises(InputError, match=f"^{path}: {cause}"):
            caption(Path(path), Spoken())
    with pytest.raises(InputError, match="--disk-gb 1: is for clips in a store"):
        caption(clips, Spoken(), disk_gb=1)


def test_what_this_machine_had_not_put_when_it_was_killed_is_not_asked_again(clips: Path, store: Any) -> None:
    for k in range(1, 3):
        store.pipe_file(f"/b/set/{k}.mkv", (clips / f"{k}.mkv").read_bytes())

    class KilledError(BaseException):
        pass

    class Dying(Spoken):
        def ask(self, clip: Path) -> str:
            if self.asked:
                raise KilledError
            return super().ask(clip)

    with pytest.raises(KilledError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Texts, "keep", lambda self, now=False: None)  # a kill leaves no time for it
        caption(Path("memory://b/set"), Dying())
    caption(Path("memory://b/set"), again := Spoken())
    assert again.asked == ["2.mkv"] and store.cat_file("/b/set/1.txt") == b"clip 1\n"


def test_a_command_is_run_without_a_shell(clips: Path, tmp_path: Path) -> None:
    program = "import sys; print(len(sys.argv), sys.argv[1][-5:]); sys.exit(sys.argv[1].endswith('3.mkv'))"
    command = Command(f'{sys.executable} -c "{program}" {{clip}} "$HOME; true"')
    assert command.ask(clips / "1.mkv").strip() == "3 1.mkv"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clips)
        assert Command(f"{sys.executable} -c 'import sys; print(*sys.argv[1:])' {{clip}}").ask(
            Path("-c.mkv")
        ).strip() == str(clips / "-c.mkv")
    with pytest.raises(AskError, match="status 1"):
        command.ask(clips / "3.mkv")
    for text, cause in (("mine clip", "one of them with"), ('mine "{clip}', "No closing quotation")):
        with pytest.raises(InputError, match=cause):
            Command(text)
    with pytest.raises(InputError, match="--command no-such-program: no such program"):
        caption(clips, Command("no-such-program {clip}"))


class Answering(BaseHTTPRequestHandler):
    """Answers as OpenAI's interface does; the first of `answers` first."""

    answers: ClassVar[list[tuple[int, bytes]]] = []
    asked: ClassVar[list[tuple[str, str | None, dict[str, Any]]]] = []
    slept: ClassVar[list[float]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], body))
        status, data = self.answers.pop(0) if self.answers else (200, good("a grey square"))
        if not status:
            self.wfile.write(data)
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://elsewhere.invalid/")
        if status == 429:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said."""


def good(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Answering.answers, Answering.asked, Answering.slept = [], [], []
    monkeypatch.setattr(captioners.time, "sleep", Answering.slept.append)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/"
        server.shutdown()
        thread.join()


def test_a_server_is_shown_even_frames_and_asked_again_when_it_is_busy(clips: Path, url: str) -> None:
    Answering.answers = [(503, b"busy"), (200, good("first")), (200, b'{"no": 1}')]
    found = caption(clips, Server(url, "tiny", "What?", frames=2, key="secret"))
    assert found.asked == 2 and found.failed == ('2.mkv: an answer of another form: {"no": 1}',)
    assert texts(clips) == {"0": "by hand", "1": "first", "3": "a grey square"}
    assert len(Answering.asked) == 4
    path, key, body = Answering.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["model"] == "tiny"
    [message] = body["messages"]
    assert message["content"][0] == {"type": "text", "text": "What?"} and len(message["content"]) == 3
    assert message["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert "secret" not in (clips / KEPT).read_text(encoding="utf-8")
    assert caption(clips, Server(url, "tiny", "What?", frames=2), workers=2).known == 2
    assert caption(clips, Server(url, "tiny", "Which?", frames=2), workers=2).asked == 3, "another question"


def test_a_server_that_says_when_to_ask_again_is_asked_then(clips: Path, url: str) -> None:
    Answering.answers = [(429, b"slower")] * 6
    assert Server(url, "tiny").ask(clips / "1.mkv") == "a grey square"
    assert Answering.slept == [7.0] * 6 and len(Answering.asked) == 7
    Answering.answers, Answering.slept[:] = [(429, b"slower")] * 99, []
    with pytest.raises(AskError, match=r"^status 429: slower$"):
        Server(url, "tiny").ask(clips / "1.mkv")
    assert len(Answering.slept) == captioners.WAITS - 1


def test_workers_write_what_one_process_writes(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (clips / "9.mkv").write_bytes((clips / "3.mkv").read_bytes())
    there = tmp_path_factory.mktemp("there") / "clips"
    shutil.copytree(clips, there)
    alone = Spoken()
    assert caption(clips, alone).asked == 4 and alone.asked == ["1.mkv", "2.mkv", "3.mkv"], "a copy is not asked about"
    assert caption(there, Spoken(), engine=Inside()).asked == 4
    assert files_of(there) == files_of(clips)
    found = caption(there, Other(), overwrite=True, engine=Inside(lambda part: part[0] == "2.mkv"))
    assert found.failed == ("2.mkv: ended every worker that asked about it (killed by SIGSEGV)",)
    assert found.asked == 4 and texts(there)["9"] == "clip 3" and texts(there)["2"] == "clip 2"


def test_a_model_is_sent_without_its_weights(tmp_path: Path) -> None:
    model = Model(tmp_path)
    model.__dict__["_loaded"] = object()
    assert vars(unpacked(packed(model))) == {"folder": tmp_path, "prompt": None, "tokens": 60}


def test_a_server_that_refuses_or_is_not_there(clips: Path, url: str) -> None:
    Answering.answers = [(401, b'{"error": "who are you"}')] * 9
    with pytest.raises(InputError, match=r"--server http://127.*: status 401: .*who are you.*; 0 clips are captioned"):
        caption(clips, Server(url, "tiny"))
    with pytest.raises(InputError, match=r"no answer \(.*refused.*\); 0 clips are captioned"):
        caption(clips, Server("http://127.0.0.1:1/v1", "tiny"))
    with pytest.raises(InputError, match="expected http://"):
        Server("localhost:8000", "tiny")


def test_a_server_that_sends_elsewhere_gets_no_key_there_and_one_that_speaks_otherwise_is_told(
    clips: Path, url: str
) -> None:
    Answering.answers = [(302, b"")] * 3
    with pytest.raises(AskError, match=r"^status 302: http://elsewhere\.invalid/$"):
        Server(url, "tiny", key="secret").ask(clips / "1.mkv")
    Answering.answers = [(0, b"SSH-2.0-OpenSSH_9.6\r\n")] * 3
    with pytest.raises(AskError, match=r"^no answer \(SSH-2\.0-OpenSSH_9\.6\)$"):
        Server(url, "tiny").ask(clips / "1.mkv")
    with pytest.raises(AskError, match=r"^no answer \(nonnumeric port: 'x9'\)$"):
        Server("http://127.0.0.1:x9/v1", "tiny").ask(clips / "1.mkv")


@pytest.mark.parametrize("key", ["", "sk-one\nsk-two", "sk-ö", "sk-\x00"])
def test_a_key_that_no_request_can_hold_is_refused_and_not_printed(key: str) -> None:
    with pytest.raises(InputError, match="--key-file: expected a key and nothing else") as refused:
        Server("http://127.0.0.1:1/v1", "tiny", key=key)
    assert "sk-" not in str(refused.value)


def test_even_frames(clips: Path) -> None:
    assert [int(f[0, 0, 0]) for f in even_frames(clips / "1.mkv", 1, None)] == [69]
    assert [int(f[0, 0, 0]) for f in even_frames(clips / "1.mkv", 5, 16)] == [60, 60, 69, 60, 60]
    assert even_frames(clips / "1.mkv", 50, 16)[0].shape == (16, 16, 3)


@pytest.mark.slow
def test_code_in_a_models_folder_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    ran = tmp_path / "ran"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w').write('ran')\nclass Mine: pass\n")
    auto = dict.fromkeys(("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor"), "mine.Mine")
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto}))
    with pytest.raises(InputError, match="not a whole model of captions"):
        Model(folder).check()
    assert not ran.exists()
