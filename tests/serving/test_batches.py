"""`/v1/batches` with the official client: results, mistakes, cancelling, the end of the window, and a restart."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.serving.conftest import LIMITS, WAIT, Live, Serving, all_quiet, until
from tests.serving.pictures import alike, gradient, hole, png
from v2flow_engine.serving.admission import Admission
from v2flow_engine.serving.batches import runner
from v2flow_engine.serving.batches.journal import Journal
from v2flow_engine.serving.batches.store import Batch as StoredBatch
from v2flow_engine.serving.batches.store import BatchStore
from v2flow_engine.serving.file_store import FileStore
from v2flow_engine.serving.keys import digest

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
KEYS = ("a-key-of-the-first-caller", "a-key-of-the-second-one")
SLOW = {"prompt": "a cat", "rounds": 16, "num_inference_steps": 100}
OVER = ("completed", "failed", "expired", "cancelled")
FEW = dataclasses.replace(LIMITS, batch_pictures=2)


@contextmanager
def client_of(live: Live, key: str = "unused") -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0, timeout=WAIT) as client:
        yield client


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with client_of(live) as client:
        yield client


def line(custom_id: str, body: dict | str, url: str = GENERATIONS, **changes: object) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body} | changes)


def begun(client: OpenAI, lines: list[str], endpoint: str = GENERATIONS, **more: object) -> Batch:
    file = client.files.create(file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch")
    asked = {"completion_window": "24h", **more}
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, **asked)


def ended(client: OpenAI, batch: Batch) -> Batch:
    until(lambda: client.batches.retrieve(batch.id).status in OVER)
    return client.batches.retrieve(batch.id)


def results(client: OpenAI, file_id: str | None) -> list[dict]:
    return (
        []
        if file_id is None
        else [json.loads(each) for each in client.files.content(file_id).text.splitlines()]
    )


def completed(client: OpenAI, batch: Batch) -> int:
    return client.batches.retrieve(batch.id).request_counts.completed


def test_lines_become_answers(client: OpenAI, live: Live) -> None:
    lines = [
        line("one", {"prompt": "a red apple", "seed": 3}),
        line("two", {"prompt": "a cat", "n": 2, "output_format": "webp", "response_format": "url"}),
        line("wrong", {"prompt": "a cat", "size": "1x1"}),
        line("stream", {"prompt": "a cat", "stream": True}),
        line("other", {"prompt": "a cat", "model": "another"}),
    ]
    batch = begun(client, lines, metadata={"who": "me"})
    assert (batch.status, batch.object, batch.metadata) == ("validating", "batch", {"who": "me"})
    assert batch.expires_at == batch.created_at + 86_400 and batch.output_file_id is None
    batch = ended(client, batch)
    assert (batch.status, batch.errors) == ("completed", None)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 2, 3)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    good = {each["custom_id"]: each for each in results(client, batch.output_file_id)}
    assert set(good) == {"one", "two"} and all(each["error"] is None for each in good.values())
    assert len({each["id"] for each in good.values()}) == 2
    response = good["one"]["response"]
    assert response["status_code"] == 200 and response["request_id"].startswith("req_")
    alone = client.images.generate(prompt="a red apple", extra_body={"seed": 3})
    assert alike(response["body"]["data"][0]["b64_json"], alone.data[0].b64_json)
    assert response["body"]["usage"]["output_tokens"] == 16
    for picture in good["two"]["response"]["body"]["data"]:
        assert httpx.get(picture["url"], timeout=WAIT).headers["content-type"] == "image/webp"
    bad = {each["custom_id"]: each["response"] for each in results(client, batch.error_file_id)}
    told = {name: (each["status_code"], each["body"]["error"]["param"]) for name, each in bad.items()}
    assert told == {"wrong": (400, "size"), "stream": (400, "stream"), "other": (404, "model")}
    file = client.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert batch.id in [each.id for each in client.batches.list(limit=1)]
    with pytest.raises(openai.BadRequestError, match="completed cannot be cancelled"):
        client.batches.cancel(batch.id)
    all_quiet(live)


def test_edits_of_files(client: OpenAI) -> None:
    files = [
        client.files.create(file=("x.png", png(each)), purpose="vision").id for each in (gradient(), hole())
    ]
    body = {"prompt": "a cat", "seed": 4, "images": [{"file_id": files[0]}], "mask": {"file_id": files[1]}}
    batch = ended(client, begun(client, [line("e", body, EDITS)], EDITS))
    [made] = results(client, batch.output_file_id)
    sent = client.images.edit(image=png(gradient()), mask=png(hole()), prompt="a cat", extra_body={"seed": 4})
    assert alike(made["response"]["body"]["data"][0]["b64_json"], sent.data[0].b64_json)


BODY = {"prompt": "a cat"}


@pytest.mark.parametrize(
    ("lines", "code", "number", "param"),
    [
        ([line("a", BODY), "{no json"], "invalid_json_line", 2, None),
        ([line("a", BODY), "[1]"], "invalid_json_line", 2, None),
        (["[" * 100_000], "invalid_json_line", 1, None),
        ([line("a", BODY), "", line("a", BODY)], "duplicate_custom_id", 3, "custom_id"),
        ([line("a", BODY, "/v1/chat/completions")], "url_mismatch", 1, "url"),
        ([line("a", BODY, method="GET")], "invalid_value", 1, "method"),
        ([line("a", "text")], "invalid_value", 1, "body"),
        ([line("", BODY)], "invalid_value", 1, "custom_id"),
        (['{"custom_id": "a", "method": "POST", "url": "/v1/images/generations"}'],
         "missing_required_parameter", 1, "body"),
        ([" "], "empty_file", None, None),
        ([line(str(k), BODY) for k in range(6)], "too_many_tasks", None, None),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong(
    few: Live, lines: list[str], code: str, number: int | None, param: str | None
) -> None:
    with client_of(few) as client:
        batch = ended(client, begun(client, lines))
    assert batch.status == "failed" and batch.failed_at is not None
    assert batch.output_file_id is None and batch.error_file_id is None
    [error] = batch.errors.data
    assert (error.code, error.line, error.param) == (code, number, param) and error.message


@pytest.fixture(scope="module")
def few(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server for batches of five lines, of which two pictures are made at once."""
    limits = dataclasses.replace(FEW, batch_lines=5, batches=2)
    with serving(limits=limits, data_dir=str(tmp_path_factory.mktemp("few"))) as live:
        yield live


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"completion_window": "169h"}, "completion_window"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {str(k): "v" for k in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
def test_batches_that_are_refused(client: OpenAI, changes: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        begun(client, [line("a", BODY)], **changes)
    assert refused.value.param.startswith(param)


def test_inputs_that_are_none(client: OpenAI) -> None:
    picture = client.files.create(file=("x.png", png(gradient())), purpose="vision")
    for file_id, kind in (("file-no", openai.NotFoundError), (picture.id, openai.BadRequestError)):
        with pytest.raises(kind) as refused:
            client.batches.create(input_file_id=file_id, endpoint=GENERATIONS, completion_window="24h")
        assert refused.value.param == "input_file_id"
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_no")


def test_cancelling_keeps_what_is_done(few: Live) -> None:
    with client_of(few) as client:
        batch = begun(client, [line(str(k), SLOW | {"seed": k}) for k in range(5)])
        client.files.delete(batch.input_file_id)  # the batch has a copy
        until(lambda: completed(client, batch) >= 1)
        assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
        batch = ended(client, batch)
        assert batch.status == "cancelled" and batch.cancelling_at <= batch.cancelled_at
        good, bad = (results(client, each) for each in (batch.output_file_id, batch.error_file_id))
        assert 1 <= len(good) == batch.request_counts.completed < 5 == len(good) + len(bad)
        assert {each["error"]["code"] for each in bad} == {"batch_cancelled"}
        assert {each["response"] for each in bad} == {None} and batch.request_counts.failed == 0
        assert {each["custom_id"] for each in good + bad} == {str(k) for k in range(5)}
        assert client.batches.cancel(batch.id).status == "cancelled"
    all_quiet(few)


def test_a_folder_that_cannot_be_read_is_not_a_wish_to_cancel(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "TRY_AGAIN_SECONDS", 0.1)
    with serving(limits=FEW, data_dir=str(tmp_path)) as live, client_of(live) as client:
        batch = begun(client, [line(str(k), SLOW | {"seed": k}) for k in range(5)])
        until(lambda: completed(client, batch) >= 1)
        wish = tmp_path / "batches" / batch.id / "cancel"
        wish.symlink_to("cancel")  # to itself: looking at it is an error
        until(lambda: f"batch {batch.id} cannot be worked on now" in caplog.text)
        wish.unlink()
        batch = ended(client, batch)
    assert (batch.status, batch.cancelling_at) == ("completed", None)
    assert batch.request_counts.completed == 5


def test_a_folder_that_comes_back_is_looked_after(
    serving: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(data_dir=str(tmp_path)) as live, client_of(live) as client:
        (tmp_path / "batches").rename(tmp_path / "away")
        until(lambda: caplog.text.count("batches cannot be looked after") >= 2)
        (tmp_path / "away").rename(tmp_path / "batches")
        assert ended(client, begun(client, [line("a", BODY)])).status == "completed"


def test_only_so_many_at_once(few: Live) -> None:
    with client_of(few) as client:
        made = [begun(client, [line("a", SLOW | {"n": 10})]) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as refused:
            begun(client, [line("a", BODY)])
        assert refused.value.code == "too_many_batches" and refused.value.response.headers["retry-after"]
        for batch in made:
            client.batches.cancel(batch.id)
            ended(client, batch)
    all_quiet(few)


def test_a_restart_goes_on_and_makes_nothing_twice(serving: Serving, tmp_path: Path) -> None:
    lines = [line(str(k), SLOW | {"seed": k}) for k in range(8)]
    with serving(limits=FEW, data_dir=str(tmp_path)) as first, client_of(first) as client:
        batch = begun(client, lines)
        until(lambda: completed(client, batch) >= 3)
    all_quiet(first)
    home = tmp_path / "batches" / batch.id
    before = (home / "output.jsonl").read_bytes()
    kept = before.count(b"\n")
    assert 3 <= kept < 8
    with (home / "output.jsonl").open("ab") as output:
        output.write(b'{"custom_id": "7", "resp')  # as if the power had failed in the middle of a line
    with serving(limits=FEW, data_dir=str(tmp_path)) as second, client_of(second) as client:
        finished = second.backend.decoder_worker.stats.finished
        batch = ended(client, batch)
        assert batch.status == "completed" and batch.request_counts.completed == 8
        after = client.files.content(batch.output_file_id).read()
        assert second.backend.decoder_worker.stats.finished - finished == 8 - kept
    assert after.startswith(before)
    assert sorted(json.loads(each)["custom_id"] for each in after.splitlines()) == [str(k) for k in range(8)]
    assert sorted(path.name for path in home.iterdir()) == ["batch.json"]


def test_the_window_ends(serving: Serving, tmp_path: Path) -> None:
    with serving(limits=FEW, data_dir=str(tmp_path)) as first, client_of(first) as client:
        batch = begun(client, [line(str(k), SLOW) for k in range(6)], completion_window="1h")
        until(lambda: completed(client, batch) >= 1)
    store = BatchStore(tmp_path / "batches", seconds=100)
    kept = store.load(batch.id)
    kept.expires = time.time() - 1
    store.save(kept)
    with serving(limits=FEW, data_dir=str(tmp_path)) as second, client_of(second) as client:
        batch = ended(client, batch)
        assert batch.status == "expired" and batch.expired_at is not None
        good, bad = (results(client, each) for each in (batch.output_file_id, batch.error_file_id))
        assert len(good) >= 1 and len(good) + len(bad) == 6
        assert {each["error"]["code"] for each in bad} == {"batch_expired"}


def test_another_model_does_not_finish_it(serving: Serving, tmp_path: Path) -> None:
    with serving(limits=FEW, data_dir=str(tmp_path)) as first, client_of(first) as client:
        batch = begun(client, [line(str(k), SLOW) for k in range(6)])
        until(lambda: completed(client, batch) >= 1)
    store = BatchStore(tmp_path / "batches", seconds=100)
    kept = store.load(batch.id)
    kept.model_digest = "another"
    store.save(kept)
    with serving(limits=FEW, data_dir=str(tmp_path)) as second, client_of(second) as client:
        batch = ended(client, batch)
        assert batch.status == "failed" and batch.errors.data[0].code == "model_mismatch"
        assert len(results(client, batch.output_file_id)) >= 1


def test_two_servers_of_one_folder_share_the_work(serving: Serving, tmp_path: Path) -> None:
    """Only one owns it; the other takes, shows and cancels batches all the same, and is the owner after it."""
    with serving(limits=FEW, data_dir=str(tmp_path)) as second_at_end:
        with serving(limits=FEW, data_dir=str(tmp_path)) as other, client_of(other) as client:
            batch = ended(client, begun(client, [line("a", BODY)]))
            assert len(results(client, batch.output_file_id)) == 1
            slow = begun(client, [line(str(k), SLOW) for k in range(9)])
            until(lambda: completed(client, slow) >= 1)
            assert client.batches.cancel(slow.id).status in ("cancelling", "cancelled")
            assert ended(client, slow).status == "cancelled"
        with client_of(second_at_end) as client:
            assert ended(client, begun(client, [line("a", BODY)])).status == "completed"


def test_a_key_sees_its_own_batches_only(serving: Serving, tmp_path: Path) -> None:
    digests = tuple(map(digest, KEYS))
    with serving(key_digests=digests, data_dir=str(tmp_path)) as live:  # noqa: SIM117
        with client_of(live, KEYS[0]) as first, client_of(live, KEYS[1]) as second:
            batch = ended(first, begun(first, [line("a", BODY)]))
            assert [each.id for each in first.batches.list()] == [batch.id]
            assert list(second.batches.list()) == []
            for call in (second.batches.retrieve, second.batches.cancel):
                with pytest.raises(openai.NotFoundError):
                    call(batch.id)
            with pytest.raises(openai.NotFoundError):
                second.files.content(batch.output_file_id)
            with pytest.raises(openai.NotFoundError):
                second.batches.create(
                    input_file_id=batch.input_file_id, endpoint=GENERATIONS, completion_window="24h"
                )


def test_an_engine_that_dies_costs_no_line(few: Live) -> None:
    worker = few.backend.decoder_worker
    deaths = worker.stats.deaths
    with client_of(few) as client:
        batch = begun(client, [line(str(k), SLOW | {"seed": k}) for k in range(5)])
        until(lambda: completed(client, batch) >= 1)
        worker.call(lambda engine: setattr(engine.autoencoder, "decode", None))
        batch = ended(client, batch)
    assert worker.stats.deaths == deaths + 1
    assert batch.request_counts.completed == 5


def test_whoever_waits_for_a_picture_goes_first(few: Live, http: httpx.Client) -> None:
    """Beside a batch, interactive requests are served; the batch meanwhile has one place, and still moves on."""
    with client_of(few) as client:
        batch = begun(client, [line(str(k), SLOW | {"n": 10, "seed": k}) for k in range(5)])
        until(lambda: few.in_flight() > 0)
        answers: list[int] = []
        body = {"prompt": "a dog", "n": 2}
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    httpx.post(few.url + GENERATIONS, json=body, timeout=WAIT).status_code
                )
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert answers == [200] * 6
        assert client.batches.retrieve(batch.id).status == "in_progress"
        client.batches.cancel(batch.id)
        ended(client, batch)
    all_quiet(few)


def test_places_of_batches() -> None:
    async def scenario() -> None:
        admission = Admission(10, 8)
        order: list[str] = []

        async def one(name: str, pictures: int, until: asyncio.Event) -> None:
            async with admission.enter_from_batch(pictures):
                order.append(name)
                await until.wait()

        async def turn() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        events = {name: asyncio.Event() for name in "abcde"}
        tasks = {name: asyncio.create_task(one(name, 4, event)) for name, event in events.items()}
        await turn()
        assert order == ["a", "b"] and admission.batch_under_way == 8
        with admission.enter(10):  # batches do not count against the others
            events["a"].set()
            await turn()
            assert order == ["a", "b"]  # 2 places are theirs now, and b has 4
            events["b"].set()
            await turn()
            assert order == ["a", "b", "c"]  # one request always has its places
            tasks["d"].cancel()
            await turn()
        await turn()
        assert order == ["a", "b", "c", "e"]
        tasks["c"].cancel()
        events["e"].set()
        await turn()
        assert (admission.batch_under_way, admission.under_way, len(admission._waiting)) == (0, 0, 0)

    asyncio.run(scenario())


def test_a_torn_line_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "output.jsonl").write_text('{"custom_id":"a","response":{}}\n{"custom_id":"b","res')
    (tmp_path / "errors.jsonl").write_text(
        '{"custom_id":"c","response":null}\n{"custom_id":"d","response":{}}\n'
    )
    with Journal(tmp_path) as journal:
        assert (journal.done, journal.completed, journal.failed) == ({"a", "c", "d"}, 1, 1)
        journal.write({"custom_id": "b", "response": {}}, well=True)
    lines = (tmp_path / "output.jsonl").read_text().splitlines()
    assert [json.loads(each)["custom_id"] for each in lines] == ["a", "b"]


def test_the_store_leaves_alone_what_is_not_its_own(tmp_path: Path) -> None:
    """--data-dir may name a folder in which `batches` is the user's."""
    own = tmp_path / "batch_of_holiday_pictures"
    own.mkdir()
    (own / "picture.png").write_bytes(b"x")
    store = BatchStore(tmp_path, seconds=100)
    (tmp_path / "todo" / "shopping").touch()
    os.utime(own, (0, 0))
    files = FileStore(tmp_path / "files", seconds=100, max_bytes=100, max_files=10)
    given = files.put(io.BytesIO(b"{}"), 2, filename="x", purpose="batch", owner=None)
    batch = StoredBatch(GENERATIONS, given.id, "24h", 0.0, None, "http://x", "tiny", "digest")
    store.create(batch, files, given)
    assert (own / "picture.png").exists()
    assert store.todo() == [batch.id] and [each.id for each in store.list(None)] == [batch.id]
