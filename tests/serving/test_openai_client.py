"""The official client, sync and async, against a real server: every endpoint, streams, usage, and its own errors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.serving.conftest import WAIT, Live, Serving
from tests.serving.pictures import alike, data_url, gradient, hole, opened, png
from v2flow_engine.images import read_metadata
from v2flow_engine.serving.settings import MIB

PROMPT = "a red apple on a white background"


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0, timeout=WAIT) as client:
        yield client


def seeded(seed: int, **more: object) -> dict[str, object]:
    return {"seed": seed, **more}


def test_pictures_of_one_call_can_be_made_again_alone(client: OpenAI) -> None:
    several = client.images.generate(prompt=PROMPT, n=3, extra_body=seeded(5))
    alone = client.images.generate(prompt=PROMPT, extra_body=seeded(6))
    assert [picture.seed for picture in several.data] == [5, 6, 7]
    assert alike(several.data[1].b64_json, alone.data[0].b64_json)
    assert len({picture.b64_json for picture in several.data}) == 3
    assert opened(alone.data[0].b64_json).size == (64, 64)


def test_the_answer_says_what_was_used(client: OpenAI) -> None:
    answer = client.images.generate(prompt=PROMPT, n=2, quality="high", user="someone")
    assert (answer.size, answer.quality, answer.background) == ("64x64", "high", "opaque")
    assert (answer.output_format, answer.safety_identifier) == ("png", "someone")
    usage = answer.usage
    text = usage.input_tokens_details.text_tokens
    assert usage.input_tokens == text > 2 * 3
    assert usage.output_tokens == usage.output_tokens_details.image_tokens == 2 * 16
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize(
    ("quality", "rounds", "steps"),
    [("low", 1, 2), ("medium", 2, 3), ("auto", 2, 3), ("high", 4, 6), ("xhigh", 6, 9), ("max", 8, 12)],
)
def test_quality_is_rounds_and_steps(client: OpenAI, quality: str, rounds: int, steps: int) -> None:
    answer = client.images.generate(prompt=PROMPT, quality=quality, extra_body=seeded(1))
    picture = opened(answer.data[0].b64_json)
    assert f'"rounds": {rounds}' in picture.text["parameters"]
    assert f'"flow_steps": {steps}' in picture.text["parameters"]


def test_extensions_reach_the_engines(client: OpenAI) -> None:
    asked = seeded(
        1,
        guidance_scale=1.5,
        temperature=0.5,
        top_k=7,
        num_inference_steps=5,
        rounds=3,
        decoder_temperature=0.25,
    )
    picture = opened(client.images.generate(prompt=PROMPT, extra_body=asked).data[0].b64_json)
    parameters = picture.text["parameters"]
    for part in (
        '"guidance_scale": 1.5',
        '"temperature": 0.5',
        '"top_k": 7',
        '"flow_steps": 5',
        '"rounds": 3',
    ):
        assert part in parameters
    plain = client.images.generate(prompt=PROMPT, extra_body=seeded(1)).data[0].b64_json
    assert not np.array_equal(np.asarray(opened(plain)), np.asarray(picture))


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_formats_and_what_they_carry(client: OpenAI, image_format: str) -> None:
    answer = client.images.generate(prompt=PROMPT, output_format=image_format, extra_body=seeded(3))
    picture = opened(answer.data[0].b64_json)
    assert picture.format.lower() == image_format == answer.output_format
    metadata = read_metadata(base64.b64decode(answer.data[0].b64_json))
    assert (metadata.prompt, metadata.seed) == (PROMPT, 3)


def test_compression_makes_files_smaller(client: OpenAI) -> None:
    sizes = [
        len(
            client.images.generate(
                prompt=PROMPT, output_format="jpeg", output_compression=percent, extra_body=seeded(3)
            )
            .data[0]
            .b64_json
        )
        for percent in (5, 95)
    ]
    assert sizes[0] < sizes[1]


def test_urls_are_served_here(client: OpenAI, live: Live) -> None:
    answer = client.images.generate(prompt=PROMPT, response_format="url", output_format="webp")
    url = answer.data[0].url
    assert url.startswith(f"{live.url}/v1/images/files/")
    assert len(url.rpartition("/")[2]) > 40
    got = httpx.get(url, timeout=WAIT)
    assert (got.status_code, got.headers["content-type"]) == (200, "image/webp")
    assert answer.data[0].b64_json is None


def test_a_stream_of_partial_pictures(client: OpenAI) -> None:
    whole = client.images.generate(prompt=PROMPT, extra_body=seeded(4, rounds=4))
    stream = client.images.generate(
        prompt=PROMPT, stream=True, partial_images=3, extra_body=seeded(4, rounds=4)
    )
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + [
        "image_generation.completed"
    ]
    assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]
    assert alike(events[3].b64_json, whole.data[0].b64_json)
    assert events[3].usage.output_tokens == 16
    finished = np.asarray(opened(events[3].b64_json)).astype(float)
    distance = [np.abs(np.asarray(opened(event.b64_json)) - finished).mean() for event in events[:3]]
    assert distance[0] > distance[2] > 0


def test_a_stream_of_several_pictures_without_partial_ones(client: OpenAI) -> None:
    events = list(client.images.generate(prompt=PROMPT, stream=True, n=3, extra_body=seeded(1)))
    assert sorted(event.image_index for event in events) == [0, 1, 2]
    assert {event.type for event in events} == {"image_generation.completed"}


def test_an_edit_keeps_what_is_not_masked(client: OpenAI) -> None:
    original = gradient(64, 64)
    answer = client.images.edit(
        image=("../../etc/passwd", png(original)),
        mask=png(hole(64, 64)),
        prompt=PROMPT,
        n=2,
        extra_body=seeded(2),
    )
    for data in answer.data:
        picture = np.asarray(opened(data.b64_json))
        assert np.array_equal(picture[:, :32], np.asarray(original)[:, :32])
        assert not np.array_equal(picture[:, 32:], np.asarray(original)[:, 32:])
    details = answer.usage.input_tokens_details
    assert (details.image_tokens, answer.usage.output_tokens) == (2 * 8, 2 * 8)


def test_an_edit_of_a_picture_with_a_hole_as_a_stream(client: OpenAI) -> None:
    events = list(
        client.images.edit(
            image=[png(hole(64, 64))],
            prompt=PROMPT,
            stream=True,
            partial_images=1,
            extra_body=seeded(2, rounds=4),
        )
    )
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    kept = np.asarray(hole(64, 64).convert("RGB"))[:, :32]
    for event in events:
        assert np.abs(np.asarray(opened(event.b64_json))[:, :32].astype(int) - kept).max() <= 1


def test_an_edit_as_json(http: httpx.Client) -> None:
    body = {
        "images": [{"image_url": data_url(png(gradient()))}],
        "mask": {"image_url": data_url(png(hole()))},
        "prompt": PROMPT,
        "seed": 2,
    }
    answer = http.post("/v1/images/edits", json=body)
    assert answer.status_code == 200, answer.text
    form = http.post(
        "/v1/images/edits",
        files={"image[]": png(gradient()), "mask": png(hole())},
        data={"prompt": PROMPT, "seed": "2"},
    )
    assert alike(*(each.json()["data"][0]["b64_json"] for each in (answer, form)))


def test_variations(client: OpenAI) -> None:
    answer = client.images.create_variation(image=png(gradient()), n=2, extra_body=seeded(8))
    assert [picture.seed for picture in answer.data] == [8, 9]
    assert answer.data[0].b64_json != answer.data[1].b64_json
    assert (answer.usage.input_tokens_details.image_tokens, answer.usage.output_tokens) == (2 * 16, 0)


def test_a_picture_through_chat(client: OpenAI, live: Live) -> None:
    messages = [
        {"role": "system", "content": "You draw."},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, seed=5, max_tokens=10)
    plain = client.images.generate(prompt=PROMPT, extra_body=seeded(5))
    message = answer.choices[0].message
    head, _, b64 = message.images[0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and alike(b64, plain.data[0].b64_json)
    assert httpx.get(message.content.partition("(")[2].rstrip(")"), timeout=WAIT).status_code == 200
    assert answer.usage.completion_tokens == 16

    stream = client.chat.completions.create(
        model="tiny", messages=messages, seed=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert alike(chunks[0].choices[0].delta.images[0]["image_url"]["url"].partition(",")[2], b64)
    assert chunks[1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == answer.usage


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "v2flow"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("other")
    assert refused.value.code == "model_not_found"


def test_a_name_with_a_slash(serving: Serving) -> None:
    with serving(names=("org/tiny", "tiny")) as live:
        with OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0, timeout=WAIT) as client:
            assert client.models.retrieve("org/tiny").id == "org/tiny"
            with pytest.raises(openai.NotFoundError) as refused:
                client.models.retrieve("org/other")
        assert refused.value.code == "model_not_found"
        assert httpx.get(f"{live.url}/v1/models/org/tiny").json()["id"] == "org/tiny"


@pytest.mark.parametrize("prompt", ["", " ", "a " * 600, "a" * 40_000])
def test_a_prompt_in_a_chat_is_one_of_its_messages(client: OpenAI, prompt: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": prompt}])
    assert refused.value.param == "messages"


def test_a_chat_goes_on_with_its_pictures_in_it(client: OpenAI) -> None:
    """Clients send earlier answers back, data URLs and all: more than the 1 MiB of other bodies."""
    picture = data_url(bytes(2 * MIB))
    messages = [
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": picture}}]},
        {"role": "assistant", "content": f"![picture]({picture})"[: 2**20]},
        {"role": "user", "content": PROMPT},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, seed=5)
    plain = client.images.generate(prompt=PROMPT, extra_body=seeded(5))
    shown = answer.choices[0].message.images[0]["image_url"]["url"].partition(",")[2]
    assert alike(shown, plain.data[0].b64_json)


def test_many_async_callers_get_what_each_gets_alone(live: Live, client: OpenAI) -> None:
    async def scenario() -> list[str]:
        async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", timeout=WAIT) as client:
            calls = [client.images.generate(prompt=PROMPT, extra_body=seeded(20 + i)) for i in range(8)]
            stream = await client.images.generate(prompt=PROMPT, stream=True, extra_body=seeded(20))
            streamed = [event.b64_json async for event in stream]
            return streamed + [answer.data[0].b64_json for answer in await asyncio.gather(*calls)]

    streamed, *together = asyncio.run(scenario())
    alone = client.images.generate(prompt=PROMPT, extra_body=seeded(23)).data[0].b64_json
    assert alike(streamed, together[0]) and alike(alone, together[3])
    assert len(set(together)) == 8


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"prompt": "a " * 600}, "prompt", "tokens"),
        ({"prompt": "a" * 40_000}, "prompt", "32000"),
        ({"n": 11}, "n", "10"),
        ({"size": "1024x1024"}, "size", "64x64"),
        ({"quality": "best"}, "quality", "low"),
        ({"background": "transparent"}, "background", "opaque pictures only"),
        ({"output_format": "gif"}, "output_format", "png, webp and jpeg"),
        ({"output_compression": 50}, "output_compression", "webp and jpeg"),
        ({"partial_images": 2}, "partial_images", "stream"),
        ({"partial_images": 4, "stream": True}, "partial_images", "3"),
        ({"extra_body": {"negative_prompt": "blur"}}, "negative_prompt", "not supported"),
        ({"extra_body": {"rounds": 17}}, "rounds", "16"),
        ({"extra_body": {"num_inference_steps": 10_000}}, "num_inference_steps", "1000"),
        ({"extra_body": {"top_k": 65}}, "top_k", "64"),
        ({"extra_body": {"seed": -1}}, "seed", "0"),
        ({"extra_body": {"guidance_scale": "3"}}, "guidance_scale", "number"),
    ],
)
def test_bad_requests_name_the_parameter(
    client: OpenAI, asked: dict[str, object], param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        client.images.generate(**({"prompt": PROMPT} | asked))
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert refused.value.request_id.startswith("req_")


def test_an_unknown_model_and_unknown_fields(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist") as refused:
        client.images.generate(prompt=PROMPT, model="gpt-image-1")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    known = {"style": "vivid", "moderation": "low", "extra_body": {"something_new": [1, 2]}}
    assert client.images.generate(prompt=PROMPT, **known).data
