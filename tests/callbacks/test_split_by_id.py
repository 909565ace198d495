"""Subjects on both sides of a split: legitimate ways first, then the mistake in several forms."""

import numpy as np
import pytest
import torch
from patients import CLASSES, Healthy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, random_split

from lightning_recipe import SplitCheck, Status
from lightning_recipe.callbacks._groups import Ids, Known, verdict

X, Y = Healthy().data(400, 1).tensors
SUBJECT = torch.arange(400) // 20
STRANGER = Known([], [], set())


class Kept(Dataset):
    """Examples, and what is known of each; gives what it is asked to."""

    def __init__(self, chosen=None, *, gives=("y",), **stored):
        chosen = torch.arange(400) if chosen is None else torch.as_tensor(chosen)
        self.x, self.y, self.gives = X[chosen], Y[chosen], gives
        for name, values in stored.items():
            setattr(self, name, values[chosen] if isinstance(values, torch.Tensor) else [values[i] for i in chosen])

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return (self.x[index], *(getattr(self, name)[index] for name in self.gives))


class First(Healthy):
    """Leaves alone what else is in a batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch[:2], batch_idx)


class Personal(First):
    """Knows its users."""

    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(24, CLASSES)

    def training_step(self, batch, batch_idx):
        x, y, user = batch
        return F.cross_entropy(self(x) + self.user(user), y)


class ByHand(First):
    """Likewise, with a table of its own, and a loss of its own."""

    def __init__(self):
        super().__init__()
        self.user = nn.Parameter(torch.zeros(20, CLASSES))

    def training_step(self, batch, batch_idx):
        x, y, user = batch
        return -(self(x) + self.user[user]).log_softmax(1)[torch.arange(len(y)), y].mean()


class Recognises(First):
    """Says which speaker it is."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(CLASSES, 20)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


def found(fit, train, val, module=None):
    check = SplitCheck()
    loaders = [DataLoader(data, 32, shuffle=shuffle) for data, shuffle in ((train, True), (val, False))]
    fit(module or First(), [check], train=loaders[0], val=loaders[1], logger=False, max_steps=2)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


def at_random(data):
    return random_split(data, [300, 100], torch.Generator().manual_seed(0))


def chosen(data, held_out):
    return [Subset(data, torch.nonzero(mask).flatten().tolist()) for mask in (~held_out, held_out)]


PLACE = torch.arange(400) % 20
HELD_OUT = torch.zeros(400, dtype=torch.bool)
HELD_OUT[at_random(range(400))[1].indices] = True
EVENLY = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(s)) < 5 for s in range(20)]).flatten()
LEGITIMATE = {
    "by subject": lambda: chosen(Kept(subject=SUBJECT), SUBJECT >= 15),
    "by time": lambda: chosen(Kept(subject=SUBJECT), PLACE >= 15),
    "by a block in the middle of each": lambda: chosen(Kept(subject=SUBJECT), (PLACE >= 8) & (PLACE < 13)),
    "evenly, for each subject": lambda: chosen(Kept(subject=SUBJECT), EVENLY),
    "every fifth": lambda: chosen(Kept(subject=SUBJECT), PLACE % 5 == 0),
    "an id for each": lambda: at_random(Kept(patient_id=torch.arange(400))),
    "one subject": lambda: at_random(Kept(subject=0 * SUBJECT)),
    "few groups": lambda: at_random(Kept(group=SUBJECT % 8)),
    "another session": lambda: chosen(Kept(subject=SUBJECT, session=SUBJECT * 4 + PLACE // 5), PLACE // 5 == 2),
    "labels": lambda: at_random(Kept(label=SUBJECT)),
    "what is known of a subject": lambda: at_random(Kept(subject_age=SUBJECT, session_length=SUBJECT)),
    "users, with a date": lambda: [Kept(HELD_OUT.logical_not().nonzero()[:, 0], user=SUBJECT, date=PLACE),
                                   Kept(HELD_OUT.nonzero()[:, 0], user=SUBJECT, date=PLACE)],
    "later visits": lambda: [Kept(HELD_OUT.logical_not().nonzero()[:, 0], patient=SUBJECT, visit_date=PLACE),
                             Kept(HELD_OUT.nonzero()[:, 0], patient=SUBJECT, visit_date=PLACE)],
}  # fmt: skip


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate(fit, name):
    assert [f.status for f in found(fit, *LEGITIMATE[name]())] in ([Status.PASSED], [Status.SKIPPED])


@pytest.mark.parametrize(
    ("module", "gives", "name"),
    [(Personal, ("y", "user"), "user"), (ByHand, ("y", "user"), "user"), (Recognises, ("speaker",), "speaker")],
)
def test_ids_that_the_network_uses(fit, module, gives, name):
    data = Kept(gives=gives, **{name: SUBJECT})
    assert [f.status for f in found(fit, *at_random(data), module())] == [Status.PASSED]


def test_a_split_by_chance_is_told_from_others():
    rng = np.random.default_rng(0)
    subject = np.arange(2000) // 50
    told = []
    for _ in range(40):
        order = rng.permutation(2000)
        train, val = order[:1600], order[1600:]
        told.append(verdict(Ids(subject[train], subject[val], order), "subject", STRANGER) is not None)
        days = (np.arange(2000) // 10)[rng.permutation(2000) // 10 < 160]  # whole days of each
        held_out = np.isin(np.arange(2000) // 10, days[:40])
        places = np.concatenate([np.flatnonzero(~held_out), np.flatnonzero(held_out)])
        by_day = Ids(subject[~held_out], subject[held_out], places)
        assert verdict(by_day, "subject", STRANGER) is None
    assert np.mean(told) > 0.9


# -- the mistake


class Table:
    """Stands for a table of pandas."""

    def __init__(self, **columns):
        self.content, self.columns, self.iloc = columns, list(columns), None

    def __len__(self):
        return 400

    def __getitem__(self, name):
        return self

    def to_numpy(self):
        return np.array([f"p{int(i):03}" for i in SUBJECT], dtype=object)


class FromTable(Kept):
    def __init__(self):
        super().__init__()
        self.frame = Table(path=None, PatientID=None)


class FromRows(Dataset):
    def __init__(self):
        self.rows = [{"x": x, "y": y, "subject_id": int(s)} for x, y, s in zip(X, Y, SUBJECT, strict=True)]

    def __len__(self):
        return 400

    def __getitem__(self, index):
        return self.rows[index]["x"], self.rows[index]["y"], self.rows[index]["subject_id"]


class Wrapped(Dataset):
    def __init__(self, inside):
        self.inside = inside

    def __len__(self):
        return len(self.inside)

    def __getitem__(self, index):
        return self.inside[index]


FORMS = {
    "an attribute": lambda: at_random(Kept(subject=SUBJECT)),
    "two of the same": lambda: at_random(Kept(subject=SUBJECT, subjects=SUBJECT[:], pids=[f"p{s}" for s in SUBJECT])),
    "in the batch, too": lambda: at_random(Kept(gives=("y", "subjects"), subjects=SUBJECT)),
    "names": lambda: at_random(Kept(speakerName=[f"speaker {i}" for i in SUBJECT])),
    "rows": lambda: at_random(FromRows()),
    "a table": lambda: at_random(FromTable()),
    "subsets in a wrapper": lambda: map(Wrapped, at_random(Kept(session=SUBJECT))),
    "two data sets": lambda: [Kept(mask.nonzero()[:, 0], patient=SUBJECT) for mask in (~HELD_OUT, HELD_OUT)],
}


@pytest.mark.parametrize("form", FORMS)
def test_subjects_in_both(fit, form):
    (finding,) = found(fit, *FORMS[form]())
    assert (finding.status, finding.code) == (Status.WARNING, "SplitCheck/ids_in_both"), finding
    assert finding.evidence == {"share": 1.0, "ids": 20, "common": 20}


def test_it_is_judged_without_a_sanity_check(fit):
    check = SplitCheck()
    train, val = (DataLoader(part, 32) for part in at_random(Kept(subject=SUBJECT)))
    fit(First(), [check], train=train, val=val, logger=False, num_sanity_val_steps=0, max_epochs=1)
    assert [f.code for f in check.findings] == ["SplitCheck/ids_in_both"]


# -- ids that come by in batches only


class Recordings(Dataset):
    """Keeps who it was under a name that says nothing, and gives it under one that does."""

    def __init__(self, mask, who=SUBJECT, name="subject_id", **more):
        self.x, self.y, self.i = X[mask], Y[mask], who[mask]
        self.name, self.more = name, more

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        who = self.i[index]
        given = f"p{int(who)}" if self.name == "patient" else who
        return {"x": self.x[index], "y": self.y[index], "meta": {self.name: given} | self.more}


class OfDicts(Healthy):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["x"], batch["y"]), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch["x"], batch["y"]), batch_idx)


class Adapts(OfDicts):
    """Each subject has a bias of its own."""

    def __init__(self):
        super().__init__()
        self.own = nn.Embedding(20, CLASSES)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["x"]) + self.own(batch["meta"]["subject_id"]), batch["y"])


def passed_by(fit, held_out=HELD_OUT, *, module=None, settings=None, keep_examples=True, **given):
    check = SplitCheck(keep_examples=keep_examples)
    train, val = (Recordings(mask, **given) for mask in (~held_out, held_out))
    loaders = [DataLoader(train, 32, shuffle=True), DataLoader(val, 32)]
    settings = {"max_epochs": 2, **(settings or {})}
    fit(module or OfDicts(), [check], train=loaders[0], val=loaders[1], logger=False, **settings)
    assert not [f for f in check.findings if f.code.endswith("internal_error")], check.findings
    return check.findings


@pytest.mark.parametrize(
    ("held_out", "given"),
    [
        (SUBJECT >= 15, {}),
        (PLACE >= 15, {}),
        (EVENLY, {}),
        (HELD_OUT, {"name": "label"}),
        (HELD_OUT, {"name": "user_id"}),
        (HELD_OUT, {"who": torch.arange(400)}),
        (HELD_OUT, {"visit_date": 3}),
        (HELD_OUT, {"module": Adapts()}),
        (HELD_OUT, {"settings": {"limit_train_batches": 8}}),
    ],
)
def test_legitimate_ids_in_batches(fit, held_out, given):
    (finding,) = passed_by(fit, held_out, **given)
    assert finding.status is Status.PASSED, finding


@pytest.mark.parametrize(
    ("name", "settings"),
    [("subject_id", {}), ("patient", {}), ("speaker", {"max_epochs": 1, "num_sanity_val_steps": 0})],
)
def test_subjects_in_the_batches_of_both(fit, name, settings):
    (finding,) = passed_by(fit, name=name, settings=settings)
    assert (finding.status, finding.code) == (Status.WARNING, "SplitCheck/ids_in_both"), finding
    assert finding.evidence == {"share": 1.0, "ids": 20, "common": 20}


def test_ids_that_come_by_are_not_kept_if_nothing_is_to_be(fit):
    assert [finding.status for finding in passed_by(fit, keep_examples=False)] == [Status.PASSED]


# -- rows with a time


class Rows(Dataset):
    """An energy log: weather, a load that drifts, and when it was."""

    def __init__(self, chosen, name="timestamp", *, drift=True, when=None):
        level = torch.sin(torch.arange(400) / 40) if drift else torch.zeros(400)
        self.x, self.load = X[chosen], (level + 0.1 * X[:, 0])[chosen]
        self.name, self.when = name, (torch.arange(400) if when is None else when)[chosen]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "load": self.load[index], self.name: self.when[index]}


class Load(Healthy):
    def __init__(self):
        super().__init__()
        self.net.append(nn.Linear(CLASSES, 1))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch["x"])[:, 0], batch["load"])

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


def rows_apart(fit, held_out=HELD_OUT, **given):
    check = SplitCheck()
    train, val = (DataLoader(Rows(mask, **given), 32) for mask in (~held_out, held_out))
    fit(Load(), [check], train=train, val=val, logger=False, max_epochs=2)
    (finding,) = check.findings
    return finding


@pytest.mark.parametrize(
    ("held_out", "given"),
    [
        (torch.arange(400) >= 300, {}),
        (torch.arange(400) < 100, {}),  # no forecast
        (PLACE >= 15, {}),
        (HELD_OUT, {"drift": False}),
        (HELD_OUT, {"name": "place"}),
        (HELD_OUT, {"name": "hour", "when": torch.arange(400) % 24}),
    ],
)
def test_rows_that_were_split_by_time_or_have_none(fit, held_out, given):
    assert rows_apart(fit, held_out, **given).status is Status.PASSED


@pytest.mark.parametrize("given", [{}, {"name": "date", "when": 1e9 + 900.0 * torch.arange(400, dtype=torch.float64)}])
def test_rows_between_in_time_are_advice(fit, given):
    finding = rows_apart(fit, **given)
    assert (finding.status, finding.code) == (Status.ADVICE, "SplitCheck/between_in_time")
    assert finding.evidence["correlation"] > 0.9


class Windows(Dataset):
    """Windows of a random walk without overlap, what comes next, and when it was."""

    def __init__(self, chosen, *, horizon=4, target=None, series=None, name="time"):
        walk = torch.randn(400 * 30, generator=torch.Generator().manual_seed(0)).cumsum(0) if series is None else series
        rows = (walk - walk.mean()).view(400, 30) / walk.std()
        future = rows[:, 24 : 24 + horizon] if target is None else target.expand(400, horizon)
        self.past, self.future, self.name = rows[chosen, :24], future[chosen], name
        self.when = 1262304000 + 3600 * torch.arange(400)[chosen]

    def __len__(self):
        return len(self.past)

    def __getitem__(self, index):
        return {"past": self.past[index], "future": self.future[index], self.name: self.when[index]}


class Forecast(Healthy):
    def __init__(self, horizon):
        super().__init__()
        self.net = nn.Linear(24, horizon)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch["past"]), batch["future"])

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


def forecast(fit, held_out, horizon=4, **given):
    check = SplitCheck()
    train, val = (DataLoader(Windows(mask, horizon=horizon, **given), 32) for mask in (~held_out, held_out))
    fit(Forecast(horizon), [check], train=train, val=val, logger=False, max_epochs=2)
    (finding,) = check.findings
    return finding


NOISE = torch.randn(400 * 30, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("held_out", "given"),
    [
        (torch.arange(400) >= 300, {}),
        (torch.arange(400) // 80 == 2, {}),  # cross validation in blocks
        (torch.arange(400) < 100, {"name": "hours_left"}),
        (HELD_OUT, {"name": "place"}),
        (HELD_OUT, {"series": NOISE}),
        (HELD_OUT, {"target": NOISE[:400, None]}),
        (HELD_OUT, {"target": (torch.arange(400)[:, None] % 3).float()}),
    ],
)
def test_windows_that_were_split_by_time_or_are_no_forecast(fit, held_out, given):
    assert forecast(fit, held_out, **given).status is Status.PASSED


@pytest.mark.parametrize("horizon", [1, 4])
def test_forecasts_between_in_time_are_advice(fit, horizon):
    finding = forecast(fit, HELD_OUT, horizon)
    assert (finding.status, finding.code) == (Status.ADVICE, "SplitCheck/between_in_time")


def test_a_forecast_of_what_lies_before_training_is_advice(fit):
    finding = forecast(fit, torch.arange(400) < 100)
    assert (finding.status, finding.code) == (Status.ADVICE, "SplitCheck/before_in_time")
