"""Differential diagnosis: each patient is accused by the check for its disease, and by no other."""

import inspect

import patients
import pytest
from patients import Healthy, Patient

from lightning_recipe import OverfitOneBatch, Status, recipe

PATIENTS = [c for c in vars(patients).values() if inspect.isclass(c) and issubclass(c, Patient) and c.code]


def diagnosed(fit, module, **steps):
    """Alarms and advice, by code."""
    callbacks = recipe(OverfitOneBatch(max_steps=getattr(module, "trial_steps", 100), max_seconds=600))
    fit(module, callbacks, logger=False, **steps)
    found = [f for c in callbacks for f in c.findings if f.is_alarm or f.status is Status.ADVICE]
    return {f.code: f for f in found}


def test_healthy_is_accused_by_none(fit):
    assert diagnosed(fit, Healthy()) == {}


@pytest.mark.parametrize("patient", PATIENTS)
def test_each_disease_is_found_by_its_check_and_by_no_other(fit, patient):
    found = diagnosed(fit, patient(), **patient.steps)
    assert patient.code in found, found
    assert found[patient.code].fix
    assert {code for code, f in found.items() if f.is_alarm} <= {patient.code, *patient.also}, found


def test_a_small_offset_is_advice_and_a_large_one_a_warning(fit):
    told = [diagnosed(fit, patient())[patient.code] for patient in (patients.UncentredALittle, patients.Uncentred)]
    assert [finding.status for finding in told] == [Status.ADVICE, Status.WARNING]


def test_every_check_that_judges_has_a_patient():
    judging = {type(callback).__name__ for callback in recipe()} - {
        "VisualizeInputs",
        "HardExamples",
    }  # show, and judge nothing
    assert {patient.code.partition("/")[0] for patient in PATIENTS} == judging
