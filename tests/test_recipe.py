"""Differential diagnosis: each patient is accused by the check for its disease, and by no other."""

import patients
import pytest
from patients import Healthy

from lightning_recipe import InitLossCheck, LRScheduleCheck, Status, recipe

DISEASES = {patients.InitTooLarge: InitLossCheck} | dict.fromkeys(patients.Scheduled.__subclasses__(), LRScheduleCheck)


def accusers(fit, module):
    callbacks = recipe()
    fit(module, callbacks)
    return {f.check for c in callbacks for f in c.findings if f.status in {Status.WARNING, Status.FAILED}}


def test_healthy_is_accused_by_none(fit):
    assert accusers(fit, Healthy()) == set()


@pytest.mark.parametrize(("patient", "check"), DISEASES.items())
def test_each_disease_is_found_by_its_check(fit, patient, check):
    assert check.__name__ in accusers(fit, patient())


def test_every_patient_is_diagnosed():
    others = {c for c in vars(patients).values() if isinstance(c, type) and issubclass(c, Healthy)}
    others -= {Healthy, patients.Scheduled}
    assert others == set(DISEASES)
