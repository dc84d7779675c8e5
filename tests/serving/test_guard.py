"""Keys, rate limits, CORS, URLs that run out, and the OpenAPI document that says so."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests.serving.conftest import LIMITS, WAIT, Serving, files_in
from v2flow_engine.serving.image_store import ImageStore
from v2flow_engine.serving.keys import Keys, RateLimit, digest

KEYS = ("a-key-of-the-first-caller", "a-key-of-the-second-one")
DIGESTS = tuple(digest(key) for key in KEYS)


def test_only_known_keys_may_call(serving: Serving) -> None:
    with serving(key_digests=DIGESTS) as live:
        for key in KEYS:
            with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, timeout=WAIT) as client:
                assert client.models.list().data
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="another", timeout=WAIT) as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                client.images.generate(prompt="a cat")
            assert refused.value.code == "invalid_api_key"
        for headers in (
            {},
            {"authorization": KEYS[0]},
            {"authorization": f"Basic {KEYS[0]}"},
            {"authorization": b"Bearer \xff"},
        ):
            answer = httpx.get(f"{live.url}/v1/models", headers=headers, timeout=WAIT)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert httpx.get(f"{live.url}/health", timeout=WAIT).status_code == 200
        document = httpx.get(f"{live.url}/openapi.json", timeout=WAIT).json()
        assert document["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
        assert "security" not in document["paths"]["/health"]["get"]


def test_settings_hold_no_key() -> None:
    keys = Keys(DIGESTS)
    assert keys.caller(KEYS[1]) == DIGESTS[1]
    assert keys.caller(KEYS[0][:-1]) is None and keys.caller("") is None
    assert not any(key in repr(vars(keys)) for key in KEYS)


def test_each_key_has_its_own_rate(serving: Serving) -> None:
    with serving(key_digests=DIGESTS, requests_per_minute=2) as live:
        first, second = ({"authorization": f"Bearer {key}"} for key in KEYS)
        statuses = [
            httpx.get(f"{live.url}/v1/models", headers=first, timeout=WAIT).status_code for _ in range(2)
        ]
        refused = httpx.get(f"{live.url}/v1/models", headers=first, timeout=WAIT)
        assert statuses == [200, 200] and refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert httpx.get(f"{live.url}/v1/models", headers=second, timeout=WAIT).status_code == 200


def test_a_rate_fills_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from v2flow_engine.errors import QueueFullError

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = RateLimit(60)
    for _ in range(60):
        rate.count("a")
    with pytest.raises(QueueFullError) as refused:
        rate.count("a")
    assert refused.value.retry_after == pytest.approx(1.0)
    now[0] += 1.01
    rate.count("a")


def test_other_pages_may_not_call_unless_named(serving: Serving) -> None:
    asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
    with serving() as live:
        answer = httpx.options(f"{live.url}/v1/images/generations", headers=asked)
        assert "access-control-allow-origin" not in answer.headers
    with serving(cors_origins=("https://page.example",), key_digests=DIGESTS) as live:
        answer = httpx.options(f"{live.url}/v1/images/generations", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        other = httpx.options(
            f"{live.url}/v1/images/generations", headers=asked | {"origin": "https://b.example"}
        )
        assert "access-control-allow-origin" not in other.headers


def test_a_page_may_send_what_openais_client_sends(serving: Serving) -> None:
    """The JavaScript client adds headers of its own to each request; a browser asks for them first."""
    origin = {"origin": "https://page.example"}
    sent = "authorization,content-type,idempotency-key,openai-organization,openai-project,x-stainless-arch"
    asked = origin | {"access-control-request-method": "POST", "access-control-request-headers": sent}
    with serving(cors_origins=("https://page.example",)) as live:
        answer = httpx.options(f"{live.url}/v1/images/generations", headers=asked)
        assert answer.status_code == 200
        assert set(answer.headers["access-control-allow-headers"].replace(" ", "").split(",")) >= set(
            sent.split(",")
        )
        assert "access-control-allow-credentials" not in answer.headers
        answer = httpx.get(f"{live.url}/v1/models", headers=origin)
        assert {"x-request-id", "retry-after"} <= set(
            answer.headers["access-control-expose-headers"].split(", ")
        )
        assert (
            httpx.options(
                f"{live.url}/v1/models", headers=asked | {"origin": "https://b.example"}
            ).status_code
            == 400
        )


def test_urls_run_out(serving: Serving) -> None:
    limits = dataclasses.replace(LIMITS, url_seconds=100)
    with serving(limits=limits, public_url="https://pictures.example/", key_digests=DIGESTS) as live:
        headers = {"authorization": f"Bearer {KEYS[0]}"}
        body = {"prompt": "a cat", "response_format": "url"}
        answer = httpx.post(f"{live.url}/v1/images/generations", json=body, headers=headers, timeout=WAIT)
        url = answer.json()["data"][0]["url"]
        assert url.startswith("https://pictures.example/v1/images/files/")
        own = url.replace("https://pictures.example", live.url)
        kept = httpx.get(own, timeout=WAIT)  # needs no key
        assert kept.status_code == 200 and kept.headers["cache-control"].startswith("private, max-age=")
        name = own.rpartition("/")[2]
        path = Path(live.settings.image_dir) / name
        os.utime(path, (time.time() - 101,) * 2)
        assert httpx.get(own, timeout=WAIT).status_code == 404
        assert path not in files_in(live.settings.image_dir)


def test_the_store_leaves_alone_what_is_not_its_own(tmp_path: Path) -> None:
    """--image-dir may name a folder with the user's own files in it."""
    own = [
        tmp_path / name for name in ("holiday.png", "notes.txt", ".profile", "a" * 43 + ".gif", ".x.png.tmp")
    ]
    left = [tmp_path / name for name in ("b" * 43 + ".png", f".{'c' * 43}.png.tmp")]
    for path in (*own, *left):
        path.write_bytes(bytes(100))
        os.utime(path, (0, 0))
    store = ImageStore(tmp_path, seconds=100, max_bytes=25)
    name = store.put(bytes(10), "png")
    store._swept = 0.0
    store.put(bytes(10), "png")
    assert store.get(name) is not None  # files of others take no room
    assert all(path.exists() for path in own)
    assert not any(path.exists() for path in left)


def test_the_store_forgets_the_oldest(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "kept", seconds=100, max_bytes=25)
    names = [store.put(bytes(10), "png") for _ in range(4)]
    assert len(set(names)) == 4
    for age, name in enumerate(names):
        os.utime(tmp_path / "kept" / name, (time.time() - age,) * 2)
    store._swept = 0.0
    last = store.put(bytes(10), "webp")
    assert [store.get(name) is not None for name in (*names, last)] == [True, True, False, False, True]
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
