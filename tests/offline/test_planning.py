"""What a row's columns mean: settings, seeds, ids, copies, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.errors import RequestError
from v2flow_engine.offline.planning import BadRow, CommandSettings, Picture, Planner
from v2flow_engine.offline.sources import SourceRow


@pytest.fixture(scope="module")
def folder(model_dir: Path) -> ModelFolder:
    """The tiny model, opened."""
    return open_model(model_dir)


def planned(folder: ModelFolder, columns: list[dict[str, Any]], **settings: Any) -> list[Picture | BadRow]:
    """The rows' pictures and bad rows."""
    planner = Planner(folder, CommandSettings(**settings), {"model": "tiny"}, "png")
    rows = [SourceRow(number, f"row {number}", each) for number, each in enumerate(columns, start=1)]
    return list(planner.plan(rows))


def test_a_rows_settings_go_before_the_commands(folder: ModelFolder) -> None:
    columns: dict[str, Any] = {
        "prompt": "a cat", "size": "64x64", "guidance": 2, "guidance_schedule": "linear", "temperature": "0.5",
        "top_k": 5, "rounds": "3", "flow_steps": 4.0, "decoder_temperature": 0.25, "topic": "cats", "score": 0.5,
    }  # fmt: skip
    first, second = planned(folder, [columns, {"prompt": "a dog"}], overrides={"rounds": 7, "top_k": 9})
    assert isinstance(first, Picture) and isinstance(second, Picture)
    parameters = first.request.parameters
    assert (parameters.guidance_scale, parameters.guidance_schedule) == (2.0, "linear")
    assert (parameters.temperature, parameters.top_k, parameters.rounds) == (0.5, 5, 3)
    assert (parameters.flow_steps, parameters.decoder_temperature) == (4, 0.25)
    assert first.extra == {"topic": "cats", "score": 0.5}
    assert (second.request.parameters.rounds, second.request.parameters.top_k, second.extra) == (7, 9, {})


def test_seeds_and_places_count_on_over_copies_and_bad_rows(folder: ModelFolder) -> None:
    rows = [{"prompt": "a", "n": 2}, {"prompt": "b", "seed": 50, "n": "2"}, {"n": 3}, {"prompt": "c"}]
    made = planned(folder, rows, seed=10)
    assert [(p.request.index, p.request.seed, p.id) for p in made if isinstance(p, Picture)] == [
        (0, 10, 0), (1, 11, 1), (2, 50, 2), (3, 51, 3), (7, 17, 7),
    ]  # fmt: skip
    (bad,) = [b for b in made if isinstance(b, BadRow)]
    assert (bad.index, bad.count, bad.row.number) == (4, 3, 3)
    assert bad.reason == "row 3: no column 'prompt'; there are ['n']"


def test_ids_name_pictures_and_may_not_come_twice(folder: ModelFolder) -> None:
    rows = [{"prompt": "a", "id": "x", "n": 2}, {"prompt": "b", "id": 7}, {"prompt": "c", "id": "x#1"}]
    made = planned(folder, rows)
    assert [p.id for p in made if isinstance(p, Picture)] == ["x", "x#1", "7"]
    assert "the id 'x#1' is that of an earlier row" in made[3].reason  # type: ignore[union-attr]


def test_a_row_that_cannot_be_made_keeps_its_id_from_none(folder: ModelFolder) -> None:
    bad, good = {"prompt": "a", "id": "x", "note": "\ud83d"}, {"prompt": "a", "id": "x"}
    first, second = planned(folder, [bad, good])
    assert isinstance(first, BadRow) and isinstance(second, Picture) and second.id == "x"


def test_moving_a_row_with_an_id_does_not_change_it(folder: ModelFolder) -> None:
    one, two = {"prompt": "a", "id": "x", "seed": 1}, {"prompt": "b", "id": "y", "seed": 2}
    forth, back = planned(folder, [one, two]), planned(folder, [two, one])
    assert [(p.key, p.fingerprint) for p in forth] == [(p.key, p.fingerprint) for p in reversed(back)]  # type: ignore[union-attr]
    changed = planned(folder, [one | {"rounds": 3}])
    assert changed[0].key == forth[0].key and changed[0].fingerprint != forth[0].fingerprint  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": 3}, "the prompt must be text, got 3"),
        ({"prompt": "\udcff"}, "valid Unicode"),
        ({"prompt": "a", "seed": "many"}, "seed must be a whole number, got 'many'"),
        ({"prompt": "a", "seed": -1}, "seed must be a whole number from 0"),
        ({"prompt": "a", "seed": 2**63 - 1, "n": 2}, "seed of the last picture"),
        ({"prompt": "a", "n": 0}, "n must be a whole number from 1"),
        ({"prompt": "a", "rounds": 1.5}, "rounds must be a whole number, got 1.5"),
        ({"prompt": "a", "rounds": 1000}, "rounds must be a whole number from 1"),
        ({"prompt": "a", "guidance": True}, "guidance must be a number, got True"),
        ({"prompt": "a", "size": 64}, "size must be text, got 64"),
        ({"prompt": "a", "size": "8x8"}, "'8x8'"),
        ({"prompt": "a", "guidance_schedule": "cubic"}, "guidance_schedule must be"),
        ({"prompt": "a", "negative_prompt": "a dog"}, "negative prompts are not supported"),
        ({"prompt": "a", "id": 1.5}, "an id must be text"),
        ({"prompt": "a", "id": "\udcff"}, "id must be valid Unicode"),
        ({"prompt": "a", "note": {"deep": ["\ud83d"]}}, "a further column must be valid Unicode"),
    ],
    ids=str,
)
def test_a_bad_row_is_one_bad_row(folder: ModelFolder, columns: dict[str, Any], said: str) -> None:
    bad, good = planned(folder, [columns, {"prompt": "a"}])
    assert isinstance(bad, BadRow) and said in bad.reason and bad.reason.startswith("row 1: ")
    assert isinstance(good, Picture)


def test_a_prompt_that_is_too_long_is_found_when_it_is_asked_for(folder: ModelFolder) -> None:
    planner = Planner(folder, CommandSettings(), {}, "png")
    (picture,) = planner.plan([SourceRow(1, "row 1", {"prompt": "cat " * 500})])
    bad = planner.check_prompt(picture)  # type: ignore[arg-type]
    assert bad is not None and "row 1: the prompt has" in bad.reason


def test_what_is_wrong_with_the_command_is_raised_at_once(folder: ModelFolder) -> None:
    with pytest.raises(RequestError, match="rounds"):
        Planner(folder, CommandSettings(overrides={"rounds": 0}), {}, "png")
