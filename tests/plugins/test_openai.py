"""The embedder of OpenAI's protocol, against a server that misbehaves in every way."""

from __future__ import annotations

import email.utils
import json
import logging
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from coreframe import config, http_json
from coreframe.data.disk_cache import DiskCache, DiskCached
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, ArgumentTypeError, EmbedderError
from coreframe_text.openai import OpenAI

KEY = "sk-very-secret"


def row(text: str, width: int = 3) -> list[float]:
    return [len(text), sum(map(ord, text)) % 97, *range(width - 2)]


def good(body: dict[str, Any]) -> dict[str, Any]:
    """A right answer, its entries in another order than the texts."""
    width = body.get("dimensions", 3)
    data = [
        {"object": "embedding", "index": i, "embedding": row(text, width)}
        for i, text in enumerate(body["input"])
    ]
    return {"object": "list", "data": data[::-1], "model": body["model"]}


class Server:
    """Answers what ``plan`` says, a step a request, then rightly; notes what it was asked."""

    def __init__(self) -> None:
        self.plan: list[Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                body = json.loads(raw)
                outer.bodies.append(body)
                outer.headers.append(self.headers)
                outer.path = self.path
                step = outer.plan.pop(0) if outer.plan else answer(good)
                step(self, body)

            def log_message(self, *args: Any) -> None:
                pass

        self.path = ""
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def texts(self) -> list[list[str]]:
        return [body["input"] for body in self.bodies]


def answer(value: Any, code: int = 200, **headers: str) -> Any:
    """A step: send this JSON (or what a function makes of the body, or bytes as they are)."""

    def step(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        found = value(body) if callable(value) else value
        raw = found if isinstance(found, bytes) else json.dumps(found).encode()
        handler.send_response(code)
        for name, text in headers.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return step


def hang_up(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def half(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')


def slow(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Answer nothing before the test is over."""
    OVER.wait(60)


OVER = threading.Event()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    OVER.clear()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = Server()
    yield found
    OVER.set()
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    times: list[float] = []
    monkeypatch.setattr(http_json, "sleep", times.append)
    return times


def ask(server: Server, **options: Any) -> OpenAI:
    return OpenAI(model="m", base_url=server.url, **options)


def test_rows_come_in_the_order_of_the_texts(server: Server) -> None:
    texts = [f"text {i}" * (i % 4 + 1) for i in range(10)]
    rows = ask(server, batch_size=4).embed(texts)
    np.testing.assert_array_equal(rows, np.array([row(t) for t in texts], np.float32))
    assert rows.dtype == np.float32
    assert server.texts == [texts[:4], texts[4:8], texts[8:]]
    assert server.path == "/v1/embeddings"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.bodies[0] == {"model": "m", "input": texts[:4], "encoding_format": "float"}


def test_dimensions_prompts_and_no_key(server: Server) -> None:
    embedder = ask(
        server, dimensions=5, query_prompt="query: ", document_prompt="doc: ", api_key_variable=None
    )
    assert embedder.embed_queries(["a"]).shape == (1, 5)
    embedder.embed_documents(["a"])
    embedder.embed(["a"])
    assert server.texts == [["query: a"], ["doc: a"], ["a"]]
    assert {body["dimensions"] for body in server.bodies} == {5}
    assert all("Authorization" not in headers for headers in server.headers)


def test_empty_texts_are_not_sent(server: Server) -> None:
    rows = ask(server).embed(["", "a", "  \n"])
    assert server.texts == [["a"]]
    np.testing.assert_array_equal(rows, np.array([[0, 0, 0], row("a"), [0, 0, 0]], np.float32))
    assert ask(server, dimensions=7).embed([""]).shape == (1, 7)
    assert ask(server).embed([]).shape == (0, 0)
    with pytest.raises(ArgumentError, match="all texts are empty"):
        ask(server).embed([" "])
    assert len(server.bodies) == 1


def test_entries_without_an_index_come_in_order(server: Server) -> None:
    def plain(body: dict[str, Any]) -> Any:
        return {"data": [{"embedding": row(text)} for text in body["input"]]}

    server.plan = [answer(plain)]
    rows = ask(server).embed(["a", "bb"])
    np.testing.assert_array_equal(rows, np.array([row("a"), row("bb")], np.float32))


# What is tried again --------------------------------------------------------------------------

TOO_MANY = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit"}}


@pytest.mark.parametrize(
    "step",
    [
        *(answer(TOO_MANY, code) for code in (408, 409, 429, 500, 502, 503, 504, 529)),
        answer(b"<html>bad gateway</html>", 502),
        answer(b"<html>welcome</html>"),
        answer(b""),
        hang_up,
        half,
    ],
)
def test_passing_trouble_is_waited_out(
    server: Server, slept: list[float], step: Any, caplog
) -> None:
    server.plan = [step, step]
    with caplog.at_level(logging.WARNING, "coreframe"):
        rows = ask(server).embed(["a"])
    np.testing.assert_array_equal(rows[0], row("a"))
    assert slept == [1.0, 2.0]
    assert server.texts == [["a"]] * 3
    assert len(caplog.records) == 2
    assert KEY not in caplog.text


def test_a_server_that_does_not_answer_in_time(server: Server, slept: list[float]) -> None:
    server.plan = [slow]
    assert ask(server, timeout=2.0).embed(["a"]).shape == (1, 3)
    server.plan = [slow] * 2
    with pytest.raises(EmbedderError, match=r"did not answer within 0.2 s \(2 tries\)"):
        ask(server, timeout=0.2, retries=1).embed(["a"])


def test_the_wait_that_a_server_asks_for(server: Server, slept: list[float]) -> None:
    in_time = email.utils.format_datetime(
        email.utils.localtime().fromtimestamp(time.time() + 20).astimezone()
    )
    for header in ("7", "0.5", "soon", "-3", "900", in_time):
        server.plan.append(answer(TOO_MANY, 429, Retry_After=header))
    ask(server).embed(["a"])
    assert slept[:5] == [7.0, 2.0, 4.0, 8.0, 60.0]
    assert slept[5] == 32.0  # longer than the 20 s of the date


def test_it_gives_up_in_the_end(server: Server, slept: list[float]) -> None:
    server.plan = [answer(TOO_MANY, 429)] * 9
    with pytest.raises(
        EmbedderError, match=r"refused with 429 .*: Rate limit reached \(rate_limit\) \(4 tries\)"
    ):
        ask(server, retries=3).embed(["a"])
    assert slept == [1.0, 2.0, 4.0]
    assert len(server.bodies) == 4


def test_nobody_is_there(slept: list[float], monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    embedder = OpenAI(
        model="m", base_url=f"http://127.0.0.1:{port}", api_key_variable=None, retries=1
    )
    with pytest.raises(EmbedderError, match=r"cannot be reached: .*refused.* \(2 tries\)"):
        embedder.embed(["a"])


# What is not ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (
            answer({"error": {"message": f"Incorrect API key: {KEY}"}}, 401),
            r"refused with 401 .*Incorrect API key: \*\*\*; look at the key",
        ),
        (answer({"error": "no access"}, 403), "403 .*: no access; look at the key"),
        (answer({"detail": "model m not found"}, 404), "404 .*model m not found"),
        (answer({"error": {"message": "too long", "code": "ctx"}}, 400), r"too long \(ctx\)"),
        (answer(b"too large", 413), "413 .*; use a smaller batch_size"),
        (
            answer({"error": {"message": "You exceeded", "code": "insufficient_quota"}}, 429),
            "insufficient_quota",
        ),
        (answer(b"", 307, Location="http://evil.example/v1"), "redirects to http://evil.example"),
        (answer(b"", 302, Location="http://evil.example/v1"), "redirects to http://evil.example"),
        (answer([1]), "answered without a list 'data'; expected 2 embeddings"),
        (answer({"data": {}}), "without a list 'data'"),
        (answer({"data": []}), "with 0 entries"),
        (answer(lambda b: {"data": good(b)["data"][:1]}), "with 1 entries"),
        (answer(lambda b: {"data": good(b)["data"] * 2}), "with 4 entries"),
        (answer({"data": [1, 2]}), "with 2 entries"),
        (answer({"data": [{"index": 0, "embedding": [1]}] * 2}), r"of the indices \[0, 0\]"),
        (answer({"data": [{"index": i, "embedding": [1]} for i in (0, 2)]}), r"\[0, 2\]"),
        (answer({"data": [{"index": i, "embedding": [1]} for i in (0, None)]}), r"\[0, None\]"),
        (answer({"data": [{"index": i, "embedding": [1]} for i in ("0", "1")]}), "indices"),
        (answer({"data": [{"embedding": [1]}, {"embedding": [1, 2]}]}), "of one length"),
        (answer({"data": [{"embedding": []}] * 2}), "no lists of numbers"),
        (answer({"data": [{"embedding": "AAAA"}] * 2}), "no lists of numbers"),
        (answer({"data": [{"embedding": {"a": 1}}] * 2}), "no lists of numbers"),
        (answer({"data": [{}] * 2}), "no lists of numbers"),
        (answer({"data": [{"embedding": [1, None]}] * 2}), "not finite"),
        (answer(b'{"data": [{"embedding": [1, NaN]}, {"embedding": [1, 2]}]}'), "not finite"),
        (answer({"data": [{"embedding": [1, 1e300]}] * 2}), "not finite in float32"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_wrong_for_good_is_said_at_once(
    server: Server, slept: list[float], step: Any, text: str
) -> None:
    server.plan = [step]
    with pytest.raises(EmbedderError, match=text) as caught:
        ask(server).embed(["a", "b"])
    assert slept == []
    assert len(server.bodies) == 1
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.__cause__)


def test_rows_of_several_widths(server: Server) -> None:
    server.plan = [answer(good), answer(lambda body: good({**body, "dimensions": 4}))]
    with pytest.raises(EmbedderError, match="rows of 3 numbers, then with rows of 4"):
        ask(server, batch_size=1).embed(["a", "b"])
    server.plan = [answer(lambda body: good({**body, "dimensions": 4}))]
    with pytest.raises(EmbedderError, match="rows of 4 numbers for dimensions=6"):
        ask(server, dimensions=6).embed(["a"])


def test_a_key_that_is_not_there(server: Server, monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EmbedderError, match=r"environment variable OPENAI_API_KEY .* is not set"):
        ask(server).embed(["a"])
    assert server.bodies == []


@pytest.mark.parametrize("key", ["sk-1234\nsk-5678", "sk-1234 # mine", "sk-1234\N{EN DASH}x"])
def test_a_key_that_cannot_be_sent_is_not_shown(server: Server, monkeypatch, key: str) -> None:
    """http.client would raise a ValueError with the whole header."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(EmbedderError, match="OPENAI_API_KEY holds no key that can be sent") as e:
        ask(server).embed(["a"])
    assert "1234" not in str(e.value)
    assert server.bodies == []


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"model": ""}, ArgumentError, "OpenAI.model must be the name of a model"),
        ({"model": None}, ArgumentTypeError, "OpenAI.model must be a text, got None"),
        ({"base_url": "localhost:8000"}, ArgumentError, "must be an address such as"),
        ({"base_url": "ftp://x/v1"}, ArgumentError, "must be an address"),
        ({"base_url": "https://me:pw@x/v1"}, ArgumentError, "no user, password or query"),
        ({"base_url": "https://x/v1?key=1"}, ArgumentError, "no user, password or query"),
        ({"api_key_variable": "sk-1234"}, ArgumentError, "NAME of an environment variable"),
        ({"dimensions": 0}, ArgumentError, "dimensions must be at least 1"),
        ({"batch_size": 0}, ArgumentError, "batch_size must be at least 1"),
        ({"timeout": 0}, ArgumentError, "timeout must be above 0"),
        ({"retries": -1}, ArgumentError, "retries must be at least 0"),
    ],
)
def test_bad_fields(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        OpenAI(**{"model": "m", **options})
    assert "sk-1234" not in str(caught.value)  # a key in place of the name of its variable


# With the rest --------------------------------------------------------------------------------


def test_the_key_is_stored_nowhere(server: Server, tmp_path) -> None:
    embedder = ask(server)
    cached = DiskCached(embedder=embedder, cache=DiskCache(tmp_path))
    pairs = Pairs.from_texts(["a", "b"], ["b", "c"], cached)
    assert server.texts == [["a", "b"], ["c"]]
    assert pairs.documents.shape == (2, 3)
    run = config.parse({"embedder": {"name": "openai", "model": "m", "base_url": server.url}})
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for text in (
        stored,
        pickle.dumps(embedder),
        config.dump(run).encode(),
        repr(embedder).encode(),
    ):
        assert KEY.encode() not in text
    assert config.parse(__import__("tomllib").loads(config.dump(run))) == run
    again = DiskCached(embedder=embedder, cache=DiskCache(tmp_path)).embed(["c", "a"])
    np.testing.assert_array_equal(again, np.array([row("c"), row("a")], np.float32))
    assert len(server.bodies) == 2


def test_what_was_paid_for_is_not_asked_again(server: Server, slept: list[float], tmp_path) -> None:
    """The service breaks down in the middle; the next run goes on from there."""
    texts = [f"text {i}" for i in range(10)]
    server.plan = [answer(good), answer(good), answer(TOO_MANY, 401)]
    for expected in (EmbedderError, None):
        cached = DiskCached(embedder=ask(server), cache=DiskCache(tmp_path), batch=3)
        if expected:
            with pytest.raises(EmbedderError):
                cached.embed(texts)
        else:
            rows = cached.embed(texts)
    np.testing.assert_array_equal(rows, np.array([row(t) for t in texts], np.float32))
    assert server.texts == [texts[:3], texts[3:6], texts[6:9], texts[6:9], texts[9:]]
