"""Comparisons from an address of the web, served by a server of these tests."""

from __future__ import annotations

import gzip
import json
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf_utils import cli, download
from rlhf_utils.download import fetch, is_url, read_given
from rlhf_utils.errors import UserError
from rlhf_utils.preferences import Preference, pair_id

RECORD = Preference(pair_id("p", " x", " y"), "p", " x", " y", "a", "ada", 1.0, "2026-05-01T10:00:00Z", "test")
LINE = json.dumps(asdict(RECORD)).encode() + b"\n"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        redirects = {"/moved": "/good.jsonl", "/away": "ftp://127.0.0.1/x", "/round": "/round"}
        if self.path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[self.path])
            self.end_headers()
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif self.path == "/silent":
            time.sleep(1)
        elif self.path == "/broken":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(LINE)
        else:
            pages = {"/good.jsonl": LINE, "/good.jsonl.gz": gzip.compress(LINE), "/page": b"<html>\n", "/empty": b""}
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

    def log_message(self, *_args):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("page", ["good.jsonl", "good.jsonl.gz", "moved"])
def test_records_come_as_they_are(address, page):
    assert read_given(f"{address}/{page}") == [RECORD]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("none", "none answers 404"),
        ("page", "page, line 1: not JSON"),
        ("empty", "empty holds no preference"),
        ("away", "leads away from the web"),
        ("round", "answers 302"),
        ("broken", "broke off after|IncompleteRead"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(address, page, message):
    with pytest.raises(UserError, match=message) as told:
        read_given(f"{address}/{page}")
    assert address in str(told.value)
    assert "/tmp" not in str(told.value).replace("\\", "/")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "not an address"),
        ("http:///x", "not an address"),
        ("http://127.0.0.1:port/", "not an address"),
        ("http://ada:secret@127.0.0.1/x", "name or password"),
        ("http://127.0.0.1:1/x", "can't be fetched"),
        ("http://127.0.0.1:9/a b\n", "can't be fetched"),
    ],
)
def test_addresses_that_are_none(url, message, tmp_path):
    with pytest.raises(UserError, match=message) as told:
        fetch(url, tmp_path / "x")
    assert "secret" not in str(told.value)


def test_size_and_time_are_bounded(address, tmp_path):
    with pytest.raises(UserError, match="more than 10 bytes"):
        fetch(f"{address}/good.jsonl", tmp_path / "x", limit=10)
    with pytest.raises(UserError, match=r"longer than 0\.3 seconds"):
        fetch(f"{address}/slow", tmp_path / "x", seconds=0.3)
    with pytest.raises(UserError, match=r"can't be fetched .*timed out"):
        fetch(f"{address}/silent", tmp_path / "x", silence=0.2)


def test_a_file_is_no_address(tmp_path):
    assert is_url("https://x.org/y")
    assert not is_url("http.jsonl")
    assert not is_url(tmp_path / "https")
    (tmp_path / "x.jsonl").write_bytes(LINE)
    assert read_given(str(tmp_path / "x.jsonl")) == [RECORD]


def test_the_command_line_takes_an_address(address, tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(download, "read_comparisons", lambda path: seen.append(path.read_bytes()) or [])
    cli.main(["pipeline", "--task", "nonsense", "--preferences", f"{address}/good.jsonl", "--out", str(tmp_path)])
    assert seen == [LINE]
    assert cli.main(["pipeline", "--preferences", f"{address}/none", "--out", str(tmp_path)]) == 2
    assert "answers 404" in capsys.readouterr().err
