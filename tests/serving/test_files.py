"""`/v1/files` with the official client: kept, listed in pages, fetched, deleted; a key's files are its own."""

from __future__ import annotations

import dataclasses
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from tests.serving.conftest import LIMITS, WAIT, Live, Serving
from tests.serving.pictures import gradient, hole, opened, png
from v2flow_engine.serving.file_store import FileStore, StorageFullError
from v2flow_engine.serving.keys import digest

KEYS = ("a-key-of-the-first-caller", "a-key-of-the-second-one")
LINES = b'{"custom_id": "a"}\n'


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0, timeout=WAIT) as client:
        yield client


def test_a_file_from_upload_to_delete(client: OpenAI, live: Live) -> None:
    name = "../../etc/pass\nwd\u202e.jsonl"
    file = client.files.create(file=(name, LINES), purpose="batch")
    assert (file.bytes, file.purpose, file.object) == (len(LINES), "batch", "file")
    assert "\n" not in file.filename and "\u202e" not in file.filename
    assert abs(file.created_at - time.time()) < 60 and file.expires_at == file.created_at + 30 * 86_400
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == LINES
    assert {each.id for each in client.files.list()} >= {file.id}
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.retrieve(file.id)
    assert (gone.value.param, gone.value.code) == ("file_id", "file_not_found")
    assert not list(live.settings.data_path.glob(f"files/{file.id}*"))


def test_a_file_may_go_earlier(client: OpenAI) -> None:
    asked = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=("x.jsonl", LINES), purpose="batch", expires_after=asked)
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError, match="3600"):
        client.files.create(file=("x", LINES), purpose="batch", expires_after=asked | {"seconds": 1})


def test_pages(client: OpenAI) -> None:
    made = [client.files.create(file=(f"{k}", LINES), purpose="user_data").id for k in range(5)]
    listed = [file.id for file in client.files.list(purpose="user_data", limit=2)]
    assert [each for each in listed if each in made] == made[::-1]
    upwards = [file.id for file in client.files.list(purpose="user_data", limit=2, order="asc")]
    assert upwards == listed[::-1]
    first = client.files.list(purpose="user_data", limit=2)
    assert first.has_more and len(first.data) == 2
    assert not client.files.list(purpose="batch_output", after=None).has_more
    with pytest.raises(openai.BadRequestError, match="after"):
        client.files.list(after="file-no")


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"purpose": "batch"}, {}, "file"),
        ({"purpose": "fine-tune"}, {"file": b"x"}, "purpose"),
        ({}, {"file": b"x"}, "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, {"file": b"x"}, "expires_after"),
        ({"purpose": "batch", "file": "text"}, {"other": b"x"}, "file"),
    ],
)
def test_forms_that_are_refused(http: httpx.Client, fields: dict, files: dict, param: str) -> None:
    answer = http.post("/v1/files", data=fields, files=files or {"other": b"x"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_no_path_is_an_id(http: httpx.Client) -> None:
    for name in ("..%2f..%2fetc%2fpasswd", "file-" + "0" * 32, "file-" + "g" * 32, "%00"):
        for address in (f"/v1/files/{name}", f"/v1/files/{name}/content"):
            assert http.get(address).status_code in (404, 405)


def test_limits_of_size_and_number(serving: Serving, tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, file_bytes=2000, files=2, files_bytes=3000)
    with serving(limits=limits, data_dir=str(tmp_path / "own")) as small:
        with OpenAI(base_url=f"{small.url}/v1", api_key="x", max_retries=0, timeout=WAIT) as client:
            for size in (2001, 200_000):
                with pytest.raises(openai.APIStatusError) as refused:
                    client.files.create(file=("x", bytes(size)), purpose="batch")
                assert refused.value.status_code == 413
            kept = client.files.create(file=("x", bytes(2000)), purpose="batch")
            with pytest.raises(openai.APIStatusError) as refused:
                client.files.create(file=("x", bytes(1001)), purpose="batch")
            assert (refused.value.status_code, refused.value.code) == (413, "storage_full")
            client.files.create(file=("x", bytes(10)), purpose="batch")
            with pytest.raises(openai.APIStatusError, match="delete some"):
                client.files.create(file=("x", bytes(10)), purpose="batch")
            client.files.delete(kept.id)
            client.files.create(file=("x", bytes(2000)), purpose="batch")
        assert (tmp_path / "own" / "files").stat().st_mode & 0o777 == 0o700


def test_a_key_sees_its_own_files_only(serving: Serving, tmp_path: Path) -> None:
    digests = tuple(digest(key) for key in KEYS)
    with serving(key_digests=digests, data_dir=str(tmp_path)) as live:
        first, second = (
            OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0, timeout=WAIT) for key in KEYS
        )
        file = first.files.create(file=("x", png(gradient())), purpose="vision")
        assert [each.id for each in first.files.list()] == [file.id]
        assert list(second.files.list()) == []
        for call in (second.files.retrieve, second.files.content, second.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(file.id)
        asked = {"prompt": "a cat", "images": [{"file_id": file.id}], "mask": {"file_id": file.id}}
        headers = {"authorization": f"Bearer {KEYS[1]}"}
        answer = httpx.post(f"{live.url}/v1/images/edits", json=asked, headers=headers, timeout=WAIT)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "images")
        assert httpx.get(f"{live.url}/v1/files/{file.id}", timeout=WAIT).status_code == 401


def test_a_picture_by_its_id(client: OpenAI, http: httpx.Client) -> None:
    image = client.files.create(file=("a.png", png(gradient())), purpose="vision")
    mask = client.files.create(file=("m.png", png(hole())), purpose="user_data")
    by_id = {"prompt": "a cat", "seed": 4, "images": [{"file_id": image.id}], "mask": {"file_id": mask.id}}
    answer = http.post("/v1/images/edits", json=by_id)
    assert answer.status_code == 200
    sent = client.images.edit(
        image=("a.png", png(gradient())), mask=("m.png", png(hole())), prompt="a cat", extra_body={"seed": 4}
    )
    pixels = [
        np.asarray(opened(each)) for each in (answer.json()["data"][0]["b64_json"], sent.data[0].b64_json)
    ]
    assert np.abs(pixels[0].astype(int) - pixels[1]).max() <= 1
    batch = client.files.create(file=("b", png(gradient())), purpose="batch")
    broken = client.files.create(file=("b", b"no picture"), purpose="vision")
    for reference in (
        {"file_id": batch.id},
        {"file_id": broken.id},
        {"file_id": "file-no"},
        {"file_id": image.id, "image_url": "data:image/png;base64,"},
        {},
    ):
        refused = http.post("/v1/images/edits", json=by_id | {"images": [reference]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "images")


def test_the_store_forgets_what_is_over(tmp_path: Path) -> None:
    store = FileStore(tmp_path, seconds=100, max_bytes=100, max_files=10)
    about = {"filename": "x", "purpose": "batch", "owner": None}
    short = store.put(io.BytesIO(b"12345"), 5, **about, seconds=0.01)
    long = store.put(io.BytesIO(b"12345"), 5, **about)
    abandoned = tmp_path / f"file-{'0' * 32}"
    abandoned.write_bytes(bytes(50))
    time.sleep(0.02)
    assert store.get(short.id, None) is None and store.list(None) == [long]
    assert store.get(long.id, "another") is None
    with pytest.raises(StorageFullError):
        store.put(io.BytesIO(bytes(50)), 50, **about)
    os.utime(abandoned, (0, 0))
    store._swept = 0.0
    assert store.room() == 95
    store.put(io.BytesIO(bytes(50)), 50, **about)


def test_the_store_leaves_alone_what_is_not_its_own(tmp_path: Path) -> None:
    """--data-dir may name a folder in which `files` is the user's."""
    own = [tmp_path / name for name in ("report.pdf", "settings.json", "file-1.json", "file-1", ".note.tmp")]
    for path in own:
        path.write_bytes(bytes(60))
        os.utime(path, (0, 0))
    store = FileStore(tmp_path, seconds=100, max_bytes=100, max_files=2)
    about = {"filename": "x", "purpose": "batch", "owner": None}
    kept = store.put(io.BytesIO(bytes(50)), 50, **about)
    store._swept = 0.0
    assert store.room() == 50 and store.list(None) == [kept]
    assert all(path.exists() for path in own)
