"""Bytes that a caller sent, in a form, as a data URL or as a file before -> a PIL image, loaded.

Bombs are refused by their headers.

File names are never used. Knows nothing of what the picture is for.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings

from PIL import Image

from v2flow_engine.errors import RequestError
from v2flow_engine.reading import READ_ERRORS
from v2flow_engine.serving.errors import file_too_large
from v2flow_engine.serving.file_store import FileStore
from v2flow_engine.serving.protocol.images import ImageReference
from v2flow_engine.serving.settings import Limits

FORMATS = ("PNG", "WEBP", "JPEG")
PURPOSES = ("vision", "user_data")  # of uploaded files that may be pictures
_DATA_URL = re.compile(r"data:image/[a-z.+-]{1,20}(;[a-z0-9=-]{1,40})*;base64,", re.IGNORECASE)


def open_upload(data: bytes, param: str, limits: Limits) -> Image.Image:
    """A file's bytes -> the picture.

    Raises `RequestError` naming `param` for what is none, or of too many pixels, `ApiError` for too many bytes.
    """
    if len(data) > limits.upload_bytes:
        raise file_too_large(param, limits.upload_bytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > limits.upload_pixels:
                raise RequestError(
                    f"{param} has {image.width} x {image.height} pixels; at most {limits.upload_pixels} are taken",
                    param,
                )
            image.load()
    except RequestError:
        raise
    except READ_ERRORS as error:
        names = ", ".join(FORMATS)
        raise RequestError(f"{param} is no picture that can be read: {names} are", param) from error
    return image


def open_reference(
    reference: ImageReference, param: str, limits: Limits, files: FileStore, owner: str | None
) -> Image.Image:
    """A data URL in a JSON body, or the id of an uploaded file -> the picture. Raises as `open_upload` does."""
    if (reference.file_id is None) == (reference.image_url is None):
        raise RequestError(f"{param} must have one of image_url and file_id", param)
    if reference.file_id is not None:
        return open_upload(_file(reference.file_id, param, limits, files, owner), param, limits)
    url = reference.image_url or ""
    head = _DATA_URL.match(url[:200])
    if head is None:
        raise RequestError(
            f"{param}.image_url must be a data URL (data:image/png;base64,...); no other address is fetched",
            param,
        )
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{param}.image_url is no valid base64", param) from error
    return open_upload(data, param, limits)


def _file(file_id: str, param: str, limits: Limits, files: FileStore, owner: str | None) -> bytes:
    file = files.get(file_id, owner)
    opened = None if file is None or file.purpose not in PURPOSES else files.open(file)
    if opened is None:
        raise RequestError(
            f"{param}.file_id names no file of yours with the purpose {' or '.join(PURPOSES)}", param
        )
    with opened:
        return opened.read(limits.upload_bytes + 1)
