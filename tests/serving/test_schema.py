"""schemathesis against the OpenAPI document: what is documented is what comes, and what it forbids is refused.

Not checked is that all data that the schema allows is taken: how many tokens a prompt has, no schema can say.
"""

from __future__ import annotations

from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.serving.conftest import WAIT, Live

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
    assert {"POST /v1/files", "GET /v1/files", "POST /v1/batches", "GET /v1/batches/{batch_id}"} <= tried
