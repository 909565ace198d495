"""recipe.json is what its schema says, and the schema is what the code says."""

import json
from copy import deepcopy
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import torch
from patients import Healthy

from lightning_recipe import Finding, InitLossCheck, Section, Status, recipe
from lightning_recipe.show import report

SCHEMA = json.loads((files("lightning_recipe") / "recipe.schema.json").read_text(encoding="utf-8"))
FINDING = SCHEMA["$defs"]["finding"]


def validate(document):
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


def test_it_is_in_step_with_the_code():
    assert SCHEMA["properties"]["version"]["const"] == report.SCHEMA_VERSION
    assert FINDING["properties"]["status"]["enum"] == [status.value for status in Status]
    assert FINDING["properties"]["section"]["enum"] == [section.value for section in Section]
    assert list(FINDING["properties"]) == FINDING["required"] == [field.name for field in fields(Finding)]
    assert SCHEMA["required"] == list(SCHEMA["properties"]) == list(json.loads(report.to_json([])))


class Exploding(Healthy):
    def loss(self, logits, y):
        return super().loss(logits * torch.tensor(float("nan")), y)


def written(trainer):
    return json.loads(Path(trainer.logger.log_dir, report.FILE_NAME).read_text(encoding="utf-8"))


def test_a_run_writes_what_it_says(fit):
    callbacks = recipe()
    document = written(fit(Healthy(), callbacks, max_epochs=1))
    validate(document)
    assert {finding["check"] for finding in document["findings"]} == {type(callback).__name__ for callback in callbacks}


def test_a_run_that_found_nan_writes_what_it_says(fit):
    document = written(fit(Exploding(), [InitLossCheck()], max_epochs=1))
    validate(document)
    assert document["findings"][0]["evidence"] == {"measured": "nan"}


@pytest.mark.parametrize("value", [0.0, -1.5, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("status", Status)
def test_any_finding_is_what_it_says(value, status):
    validate(json.loads(report.to_json([Finding("A", status, "5, not 2", {"value": value}, section=Section.TUNE)])))


VALID = json.loads(report.to_json([Finding("A", Status.FAILED, "5, not 2", {"value": 5.0})]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("check", ""),
        ("status", "error"),
        ("message", None),
        ("evidence", {"value": "NaN"}),
        ("evidence", {"value": None}),
        ("evidence", [5.0]),
        ("why", 2),
        ("fix", None),
        ("section", "2"),
        ("step", -1),
        ("step", 0.5),
        ("code", None),
        ("times", 0),
        ("explains", "A/*"),
    ],
)
def test_a_wrong_finding_fails(key, value):
    document = deepcopy(VALID)
    validate(document)
    document["findings"][0][key] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


@pytest.mark.parametrize("key", FINDING["required"])
def test_a_finding_without_a_key_fails(key):
    document = deepcopy(VALID)
    del document["findings"][0][key]
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


@pytest.mark.parametrize("change", [{"version": 1}, {"version": "2"}, {"findings": {}}, {"lightning_recipe": ""}])
def test_a_wrong_document_fails(change):
    with pytest.raises(jsonschema.ValidationError):
        validate(VALID | change)
