"""What no decent client sends: 4xx or a closed connection each time, never 5xx, never a hang, and still serving."""

from __future__ import annotations

import base64
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest

from tests.serving.conftest import LIMITS, Live, all_quiet
from tests.serving.pictures import data_url, gradient, hole, png

GENERATIONS, EDITS, VARIATIONS = (f"/v1/images/{name}" for name in ("generations", "edits", "variations"))
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _still_serving(live: Live, http: httpx.Client) -> Iterator[None]:
    yield
    assert http.post(GENERATIONS, json={"prompt": "a red apple"}).status_code == 200
    all_quiet(live)


def check_refusal(answer: httpx.Response) -> dict[str, str | None]:
    """4xx in OpenAI's shape, short, and with nothing of this machine in it."""
    assert 400 <= answer.status_code < 500, answer.text[:300]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 0 < len(answer.content) < 1500
    for secret in ("Traceback", "site-packages", "/home", "/tmp", "/usr", "object at 0x"):
        assert secret not in answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    return error


JSON_BODIES = {
    "nothing": b"",
    "cut short": b'{"prompt": "a cat"',
    "no object": b"[]",
    "null": b"null",
    "no utf-8": b'{"prompt": "\xff\xfe"}',
    "deep": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "lone surrogate": b'{"prompt": "a \\ud800 cat"}',
    "prompt of numbers": b'{"prompt": 7}',
    "prompt missing": b'{"n": 1}',
    "NaN": b'{"prompt": "a cat", "guidance_scale": NaN}',
    "infinity": b'{"prompt": "a cat", "temperature": Infinity}',
    "huge float": b'{"prompt": "a cat", "temperature": 1e999}',
    "huge int": b'{"prompt": "a cat", "n": 1' + b"0" * 400 + b"}",
    "int beyond Python's digits": b'{"prompt": "a cat", "seed": 1' + b"0" * 5000 + b"}",
    "negative": b'{"prompt": "a cat", "n": -1}',
    "fraction": b'{"prompt": "a cat", "n": 1.5}',
    "number as text": b'{"prompt": "a cat", "n": "2"}',
    "bool as number": b'{"prompt": "a cat", "n": true}',
    "text as bool": b'{"prompt": "a cat", "stream": "yes"}',
    "size like a path": b'{"prompt": "a cat", "size": "../../etc/passwd"}',
    "size of zeros": b'{"prompt": "a cat", "size": "0x0"}',
    "long size": b'{"prompt": "a cat", "size": "' + b"9" * 500 + b'x1"}',
    "long model": b'{"prompt": "a cat", "model": "' + b"m" * 500_000 + b'"}',
    "blank prompt": b'{"prompt": " \\n\\t "}',
    "last seed too large": b'{"prompt": "a cat", "n": 2, "seed": 9223372036854775807}',
    "null prompt": b'{"prompt": null}',
    "prompt of a mebibyte": b'{"prompt": "' + b"a" * 2**20 + b'"}',
}


@pytest.mark.parametrize("body", JSON_BODIES.values(), ids=JSON_BODIES.keys())
def test_generation_bodies(http: httpx.Client, body: bytes) -> None:
    check_refusal(http.post(GENERATIONS, content=body, headers={"content-type": "application/json"}))


def test_control_characters_are_text(http: httpx.Client) -> None:
    answer = http.post(
        GENERATIONS, json={"prompt": "a\x00red\x1b[31m\u202eapple\ufeff <s>", "output_format": "png"}
    )
    assert answer.status_code == 200


CHAT_BODIES = {
    "no messages": {},
    "empty": {"messages": []},
    "nobody asks": {"messages": [{"role": "assistant", "content": "hello"}]},
    "a picture": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    },
    "unknown role": {"messages": [{"role": "king", "content": "a cat"}]},
    "content missing": {"messages": [{"role": "user"}]},
    "content of numbers": {"messages": [{"role": "user", "content": [1, 2]}]},
    "too many": {"messages": [{"role": "user", "content": "a"}] * 1001},
    "too many pictures": {"messages": [{"role": "user", "content": "a cat"}], "n": 100},
}


@pytest.mark.parametrize("body", CHAT_BODIES.values(), ids=CHAT_BODIES.keys())
def test_chat_bodies(http: httpx.Client, body: dict) -> None:
    check_refusal(http.post(CHAT, json=body))


def bomb_by_header(width: int, height: int) -> bytes:
    """A PNG that says it is enormous, and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zip_bomb() -> bytes:
    """A PNG of honest size with a compressed text of 64 MiB."""
    plain = png(gradient(8, 8))
    text = b"k\0\0" + zlib.compress(b"\0" * 2**26, 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    return plain[:33] + chunk + plain[33:]


BAD_PICTURES = {
    "empty": b"",
    "text": b"not a picture",
    "cut short": png(gradient())[:200],
    "head alone": png(gradient())[:20],
    "garbage within": png(gradient())[:100] + b"\xff" * 4000,
    "pixel bomb": bomb_by_header(60_000, 60_000),
    "more pixels than taken": bomb_by_header(1001, 1000),
    "fewer pixels than said": bomb_by_header(999, 999),
    "zip bomb": zip_bomb(),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "too many bytes": b"\x89PNG\r\n\x1a\n" + b"\0" * LIMITS.upload_bytes,
}


@pytest.mark.parametrize("data", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_pictures_in_forms(http: httpx.Client, data: bytes) -> None:
    error = check_refusal(http.post(VARIATIONS, files={"image": data}))
    assert error["param"] == "image"
    mask = {"image": png(gradient()), "mask": data}
    assert check_refusal(http.post(EDITS, files=mask, data={"prompt": "a"}))["param"] == "mask"


REFERENCES = {
    "no data": "data:image/png;base64,",
    "no base64": "data:image/png;base64,%%%%",
    "address": "http://169.254.169.254/latest/meta-data",
    "file": "file:///etc/passwd",
    "other data": "data:text/html;base64,PGI+",
    "picture cut short": data_url(png(gradient())[:300]),
    "pixel bomb": data_url(bomb_by_header(60_000, 60_000)),
    "too large": "data:image/png;base64," + base64.b64encode(b"\0" * (LIMITS.upload_bytes + 1)).decode(),
    "endless head": "data:image/png;" + "a=b;" * 10_000,
}


@pytest.mark.parametrize("url", REFERENCES.values(), ids=REFERENCES.keys())
def test_pictures_in_json(http: httpx.Client, url: str) -> None:
    check_refusal(http.post(EDITS, json={"prompt": "a cat", "images": [{"image_url": url}]}))


def test_too_many_bytes_are_413_however_they_come(http: httpx.Client) -> None:
    large = png(gradient()) + bytes(LIMITS.upload_bytes)
    file = http.post("/v1/files", data={"purpose": "vision"}, files={"file": large}).json()["id"]
    small, prompt = {"image_url": data_url(png(gradient()))}, {"prompt": "a cat"}
    answers = {
        "image": http.post(EDITS, files={"image": large}, data=prompt),
        "images": http.post(EDITS, json=prompt | {"images": [{"image_url": data_url(large)}]}),
        "mask": http.post(EDITS, json=prompt | {"images": [small], "mask": {"file_id": file}}),
    }
    for param, answer in answers.items():
        error = check_refusal(answer)
        assert (answer.status_code, error["code"], error["param"]) == (413, "file_too_large", param)


def test_edits_that_make_no_sense(http: httpx.Client) -> None:
    opaque, holed = png(gradient()), png(hole())
    prompt = {"prompt": "a cat"}
    cases = [
        ({"files": {"image": opaque}, "data": prompt}, "mask"),  # nothing says what to draw
        ({"files": {"image": opaque, "mask": png(hole(64, 64))}, "data": prompt}, "mask"),
        (
            {"files": {"image": opaque, "mask": png(gradient(96, 96).point(lambda _: 0))}, "data": prompt},
            "mask",
        ),
        ({"files": {"image": holed}}, "prompt"),
        ({"files": {"image": holed}, "data": prompt | {"n": "nan"}}, "n"),
        ({"files": {"image": holed}, "data": prompt | {"guidance_scale": "nan"}}, "guidance_scale"),
        ({"files": {"image": holed}, "data": prompt | {"stream": "perhaps"}}, "stream"),
        ({"files": [("image[]", holed)] * 2, "data": prompt}, "image"),
        ({"files": {"other": holed}, "data": prompt}, "image"),
        ({"files": {"other": holed}, "data": prompt | {"image": "text"}}, "image"),
        ({"files": {"image": holed, "prompt": b"a file"}}, "prompt"),
        ({"json": prompt}, "images"),
        ({"json": prompt | {"images": []}}, "images"),
        ({"json": prompt | {"images": [{}]}}, "images"),
        ({"json": prompt | {"images": [{"file_id": "file-1"}]}}, "images"),
    ]
    for request, param in cases:
        assert check_refusal(http.post(EDITS, **request))["param"] == param, request.get("data")


def test_malformed_forms(http: httpx.Client) -> None:
    for kind, body in {
        "multipart/form-data": b"--x\r\n",
        "multipart/form-data; boundary=x": b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\nabc",
        "multipart/form-data; boundary=": b"----\r\n",
        "text/plain": b"prompt=a",
    }.items():
        for path in (EDITS, VARIATIONS):
            check_refusal(http.post(path, content=body, headers={"content-type": kind}))
    many = {f"f{i}": "x" for i in range(100)}
    check_refusal(http.post(EDITS, data=many, files={"image": png(hole())}))


def test_names_of_files_lead_nowhere(http: httpx.Client) -> None:
    for name in ("../../../etc/passwd", "..\\..\\boot.ini", "a\x00b.png", "/" * 500, "%2e%2e%2f", "con"):
        answer = http.post(VARIATIONS, files={"image": (name, png(gradient()), "image/png")})
        assert answer.status_code == 200
    for path in ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "a" * 43 + ".png", "." * 43 + ".png"):
        answer = http.get(f"/v1/images/files/{path}")
        check_refusal(answer)
        assert answer.status_code == 404


def test_unknown_addresses_and_methods(http: httpx.Client) -> None:
    assert check_refusal(http.get("/v1/nothing"))["code"] == "not_found"
    answer = http.get(GENERATIONS)
    assert check_refusal(answer)["code"] == "method_not_allowed"
    assert answer.status_code == 405 and "POST" in answer.headers["allow"]


def raw(live: Live, data: bytes, wait: float = 20.0) -> bytes:
    """Send bytes and read until the server closes the connection or answers."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=wait) as connection:
        connection.sendall(data)
        got = b""
        while b"\r\n\r\n" not in got and (part := connection.recv(65536)):
            got += part
        return got


def test_bodies_that_lie_about_their_size(live: Live) -> None:
    head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
    assert b" 413 " in raw(live, head + b"content-length: 99999999\r\n\r\n").partition(b"\r\n")[0]
    assert b" 4" in raw(live, head + b"content-length: -5\r\n\r\n").partition(b"\r\n")[0]
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    answer = raw(live, head + b"transfer-encoding: chunked\r\n\r\n" + chunk + chunk)
    assert b" 413 " in answer.partition(b"\r\n")[0]


def test_slow_senders_are_cut_off(live: Live) -> None:
    head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
    begun = time.monotonic()
    answer = raw(live, head + b"content-length: 100\r\n\r\n{")
    assert b" 408 " in answer.partition(b"\r\n")[0]
    assert raw(live, b"POST / HTTP/1.1\r\nhost:") == b""  # the head never ends
    assert raw(live, b"") == b""
    assert time.monotonic() - begun < 60


def test_garbage_and_endless_heads(live: Live) -> None:
    assert raw(live, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10).partition(b"\r\n")[0][:12] in (
        b"HTTP/1.1 400",
        b"",
    )
    head = b"GET /health HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(200))
    assert b" 4" in raw(live, head + b"\r\n").partition(b"\r\n")[0]


def test_json_of_the_wrong_type_everywhere(http: httpx.Client) -> None:
    """Each field of a generation with values of every other type: refused, or taken as meant, never an error."""
    schema = http.get("/openapi.json").json()["components"]["schemas"]["GenerationBody"]["properties"]
    values = [None, True, 0, -1, 1e308, "", "x", [], {}, [[]], {"a": {}}, 2**70]
    for name in schema:
        for value in values:
            body = json.dumps({"prompt": "a cat"} | {name: value})
            answer = http.post(GENERATIONS, content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400, 404), (name, value, answer.text)
