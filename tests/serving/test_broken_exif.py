"""Cameras and editors write EXIF that breaks the rules: such a picture is taken, wherever pictures are."""

from __future__ import annotations

import httpx
import pytest

from tests.broken_exif import TURNED, UNREADABLE
from tests.serving.pictures import data_url

BROKEN = UNREADABLE | TURNED
EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"


@pytest.mark.parametrize("picture", BROKEN.values(), ids=BROKEN.keys())
def test_pictures_with_broken_exif_are_taken(http: httpx.Client, picture: bytes) -> None:
    prompt = {"prompt": "a cat"}
    mask = UNREADABLE["garbage"] if picture in UNREADABLE.values() else TURNED["a width of thirds, PNG"]
    by_url = {"images": [{"image_url": data_url(picture)}], "mask": {"image_url": data_url(mask)}}
    answers = [
        http.post(VARIATIONS, files={"image": picture}),
        http.post(EDITS, files={"image": picture, "mask": mask}, data=prompt),
        http.post(EDITS, files={"image": mask, "mask": picture}, data=prompt),
        http.post(EDITS, json=prompt | by_url),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text[:300]
