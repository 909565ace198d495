"""Findings over time."""

from dataclasses import replace

import pytest
from patients import Healthy

from lightning_recipe import BatchMixingDetector, Finding, InitLossCheck, Status, recipe
from lightning_recipe.ledger import Ledger, causes
from lightning_recipe.show import report, terminal


def dead(status=Status.WARNING, subject="net.2", step=0, **changes):
    return Finding("A", status, "dead units", code="A/dead", subject=subject, step=step, **changes)


# -- told once


def test_the_same_again_counts_and_says_nothing():
    ledger = Ledger()
    assert ledger.look([dead(step=1)]) == [dead(step=1)]
    assert ledger.look([dead(step=2)]) == []
    assert ledger.findings == [dead(step=2, times=2)]


def test_another_subject_or_code_is_another_finding():
    ledger = Ledger()
    ledger.look([dead()])
    assert ledger.look([dead(subject="net.4"), replace(dead(), code="A/saturated")])
    assert [f.times for f in ledger.findings] == [1, 1, 1]


def test_what_became_worse_is_told_in_its_place():
    ledger = Ledger()
    ledger.look([dead(Status.ADVICE), dead(subject="net.4")])
    (told,) = ledger.look([dead(Status.FAILED, step=7)])
    assert told.status is Status.FAILED
    assert [f.status for f in ledger.findings] == [Status.FAILED, Status.WARNING]
    assert ledger.look([dead(Status.ADVICE, step=9)]) == []
    assert ledger.findings[0].status is Status.FAILED


def test_repetition_alone_makes_no_failure():
    ledger = Ledger(patience=2)
    for step in range(100):
        ledger.look([dead(step=step)])
    assert [f.status for f in ledger.findings] == [Status.WARNING]
    assert ledger.findings[0].times == 100


# -- patience


def test_a_heuristic_has_to_be_found_in_a_row():
    ledger = Ledger(patience=3)
    for found in ([dead()], [dead()], [], [dead()], [dead()]):
        assert ledger.look(found) == []
    (told,) = ledger.look([dead(step=6)])
    assert (told.times, told.step) == (3, 6)


def test_hard_evidence_needs_no_patience():
    assert Ledger(patience=3).look([dead(Status.FAILED)])


# -- silence


@pytest.mark.parametrize("key", ["A", "A/dead", "A/*", "A/dead@net.2", "A/dead@net.*"])
def test_what_is_silenced_is_counted_not_told(key):
    ledger = Ledger(skip=[key])
    assert ledger.look([dead()]) == []
    assert ledger.findings == []
    assert ledger.silenced == {"A/dead@net.2": 1}


@pytest.mark.parametrize("key", ["B", "A/alive", "A/dead@net.4", "dead"])
def test_other_keys_silence_nothing(key):
    assert Ledger(skip=[key]).look([dead()])


def test_a_check_that_is_skipped_is_left_out():
    names = [type(callback).__name__ for callback in recipe(skip=["Batch*", "InitLossCheck/too_high"])]
    assert "BatchMixingDetector" not in names
    assert "InitLossCheck" in names


@pytest.mark.parametrize("key", ["BatchMixing", "NoSuchCheck/dead"])
def test_a_key_that_names_no_check_is_refused(key):
    with pytest.raises(ValueError, match="names none of"):
        recipe(skip=[key])


def test_own_instances_take_the_place_of_the_default_ones():
    own = InitLossCheck(warn_ratio=7)
    callbacks = recipe(own, strict=True)
    assert own in callbacks
    assert own.strict
    assert len(callbacks) == len(recipe())
    with pytest.raises(TypeError, match="callbacks of the recipe"):
        recipe(InitLossCheck)


def test_the_table_ends_with_what_is_silenced():
    table = terminal.table([dead()], {"B/x@net": 2})
    assert [list(column.cells)[-1] for column in table.columns][1:] == ["B/x@net", "found 2 times"]


# -- explanation


def found(name, status=Status.WARNING, explains=()):
    return Finding(name, status, f"{name} is off", code=f"{name}/off", explains=explains)


def test_symptoms_are_folded_under_their_cause():
    symptom, cause, other = found("Symptom"), found("Cause", explains=("Symptom/*",)), found("Other", Status.FAILED)
    assert report.in_order([symptom, cause, other]) == [(other, []), (cause, [symptom])]
    assert report.markdown([symptom, cause]).count("\n|") == 3
    assert "explains: Symptom (warning): Symptom is off" in terminal.in_a_log(cause, [symptom])[1]


def test_a_cause_comes_where_the_worst_of_its_symptoms_would():
    cause, other = found("Cause", explains=("Symptom/*",)), found("Other")
    symptom = found("Symptom", Status.FAILED)
    assert report.in_order([other, symptom, cause]) == [(cause, [symptom]), (other, [])]


def test_a_symptom_of_a_known_cause_names_it_and_gives_no_advice_of_its_own():
    symptom = replace(found("Symptom"), why="so", fix="do that")
    lines = terminal.in_a_log(symptom, cause=found("Cause", explains=("Symptom/*",)))
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["explained by", "key"]
    assert "Cause/off" in lines[1]


def test_what_is_explained_is_told_in_brief():
    symptom = replace(found("Symptom"), message="word " * 100)
    assert len(report.in_brief(symptom)) <= report.BRIEF


MISTAKES = {
    "NormalizationCheck/scales_differ": ["OverfitOneBatch/learning_rate_too_low", "PredictionDynamicsLogger/jumping"],
    "ActivationMonitor/dead": [
        "InputIndependenceCheck/input_ignored",
        "OverfitOneBatch/cannot_tell_examples_apart",
        "BatchMixingDetector/constant_output",
    ],
    "StaleGradientCheck/clips_nothing": [
        "InputIndependenceCheck/input_ignored",
        "OverfitOneBatch/optimiser_unstable",
        "UpdateRatioMonitor/too_large",
        "ActivationMonitor/cut",
    ],
    "DataProfile/sorted": [
        "InputIndependenceCheck/input_ignored",
        "PredictionDynamicsLogger/jumping",
        "ActivationMonitor/dead",
    ],
    "InputIndependenceCheck/one_input_ignored": ["OverfitOneBatch/stuck", "ActivationMonitor/vanishing"],
    "InputIndependenceCheck/input_ignored": ["ActivationMonitor/cut", "OverfitOneBatch/cannot_tell_examples_apart"],
}


@pytest.mark.parametrize("cause", MISTAKES)
def test_one_mistake_has_one_row(cause):
    """As in programs that have just this mistake: checks in the order of the recipe, symptoms worse than the cause."""
    order = [type(check) for check in recipe()]
    kinds = {kind.__name__: kind for kind in order}
    told = []
    for code in sorted([cause, *MISTAKES[cause]], key=lambda code: order.index(kinds[code.partition("/")[0]])):
        name, _, own = code.partition("/")
        status = Status.WARNING if code == cause else Status.FAILED
        told.append(Finding(name, status, "", code=code, explains=kinds[name].explains.get(own, ())))
    assert [told[i].code for i in causes(told)] == [cause]


def test_what_is_no_alarm_is_explained_by_nothing():
    well = found("Symptom", Status.SKIPPED)
    assert len(causes([well, found("Cause", explains=("Symptom/*",))])) == 2


def test_chains_have_one_cause_and_circles_none():
    a, b, c = found("A", explains=("B/off",)), found("B", explains=("C/off",)), found("C")
    assert causes([c, b, a]) == {2: [c, b]}
    assert set(causes([found("A", explains=("B/off",)), found("B", explains=("A/off",))])) == {0, 1}
    assert set(causes([a, b, found("C", explains=("A/off",))])) == {0, 1, 2}


def test_state_goes_on():
    ledger, other = Ledger(patience=2), Ledger(patience=2)
    ledger.look([dead(Status.FAILED, subject="x"), dead()])
    other.load_state_dict(ledger.state_dict(), "A")
    assert other.findings == ledger.findings
    assert other.look([dead()]), "the second in a row"
    other.load_state_dict(ledger.state_dict(), "B")
    assert len(other.findings) == 2, "of another check: left alone"


def test_two_of_a_class_are_two(fit):
    checks = [BatchMixingDetector(), BatchMixingDetector(max_examples=4)]
    fit(Healthy(), checks, max_steps=1)
    assert [len(check.findings) for check in checks] == [1, 1]
