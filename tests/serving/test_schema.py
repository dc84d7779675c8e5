"""schemathesis against the OpenAPI document: what is documented is what comes, and what it forbids is refused.

Not checked is that all data that the schema allows is taken: how many tokens a prompt has, no schema can say.
"""

from __future__ import annotations

import json
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from openai import OpenAI
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.serving.conftest import WAIT, Live, until

EXAMPLES = 25
load_all_checks()
CHECKED = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "unsupported_method",
    )
]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_document_is_true(live: Live, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    tried = set()
    for found in document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        def holds(case: schemathesis.Case) -> None:
            if case.media_type == "multipart/form-data" and isinstance(case.body, dict):
                # A form cannot say an empty array: the field is not sent, and what is may be valid.
                assume(not any(value == [] for value in case.body.values()))
            case.call_and_validate(checks=CHECKED, timeout=WAIT)

        try:
            holds()
        except (
            Unsatisfiable,
            SkipTest,
        ):  # nothing of this kind can be said about an operation without parameters
            continue
        tried.add(operation.label)
    assert {"POST /v1/images/generations", "POST /v1/chat/completions", "POST /v1/images/edits"} <= tried
    assert {"POST /v1/files", "GET /v1/files", "POST /v1/batches", "GET /v1/batches"} <= tried


def test_the_document_is_true_of_what_there_is(live: Live) -> None:
    """Ids that are guessed name nothing, so here are some of a real file and a real batch."""
    document = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    line = {"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a cat"}}
    with OpenAI(base_url=f"{live.url}/v1", api_key="x", timeout=WAIT) as client:
        file = client.files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch")
        asked = {"input_file_id": file.id, "endpoint": "/v1/images/generations", "completion_window": "24h"}

        def holds(path: str, method: str = "GET", status: int = 200, **parts: object) -> dict:
            case = document[path][method].Case(**parts)
            answer = case.call_and_validate(checks=CHECKED, timeout=WAIT)
            assert answer.status_code == status
            return answer.json() if "json" in answer.headers["content-type"][0] else {}

        batch_id = holds("/v1/batches", "POST", body=asked, media_type="application/json")["id"]
        batch, own = {"batch_id": batch_id}, {"file_id": file.id}
        until(lambda: client.batches.retrieve(batch_id).status == "completed")
        holds("/v1/batches/{batch_id}", path_parameters=batch)
        holds("/v1/batches/{batch_id}/cancel", "POST", 400, path_parameters=batch)
        assert holds("/v1/batches", query={"limit": 1})["data"]
        assert holds("/v1/files", query={"limit": 1})["has_more"]
        for address in ("/v1/files/{file_id}", "/v1/files/{file_id}/content"):
            holds(address, path_parameters=own)
        holds("/v1/files/{file_id}", "DELETE", path_parameters=own)
        holds("/v1/files/{file_id}", status=404, path_parameters=own)
