"""schemathesis against the OpenAPI document: what is documented is what comes, and what it forbids is refused.

Not checked is that all data that the schema allows is taken: how many tokens a prompt has, no schema can say.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
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


@pytest.fixture(scope="package")
def document(live: Live) -> object:
    return schemathesis.openapi.from_url(f"{live.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_the_document_is_true(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKED, timeout=WAIT)
