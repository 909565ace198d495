import io
import pickle
from dataclasses import dataclass

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from patients import CLASSES, FEATURES, Healthy
from PIL import Image
from torch import nn
from torch.distributions import Independent, Normal, StudentT
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_recipe import Status, recipe
from lightning_recipe.callbacks import visualize_inputs
from lightning_recipe.callbacks.visualize_inputs import MAX_CARDS, VisualizeInputs
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.grid import layout
from lightning_recipe.losses.targets import answers
from lightning_recipe.record.probe import Probe
from lightning_recipe.record.tensors import tensors


class Module(L.LightningModule):
    """Any network, loss and data; batches are (input, target)."""

    def __init__(self, net, loss, *tensors, batch_size=8):
        super().__init__()
        self.net, self.loss, self.data, self.size = net, loss, TensorDataset(*tensors), batch_size

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

    def train_dataloader(self):
        return DataLoader(self.data, self.size)

    val_dataloader = train_dataloader


@pytest.fixture
def cards(monkeypatch):
    """The pictures and their names, as they are drawn."""
    drawn = []
    draw = visualize_inputs.input_card

    def keep(name, *args, **kwargs):
        picture = draw(name, *args, **kwargs)
        drawn.append((name, picture))
        return picture

    monkeypatch.setattr(visualize_inputs, "input_card", keep)
    return drawn


def steps(events, trainer):
    accumulator = events(trainer)
    return {tag: [event.step for event in accumulator.Images(tag)] for tag in accumulator.Tags()["images"]}


# -- when


def test_first_batches_of_both_lie_side_by_side(fit, events):
    look = VisualizeInputs(max_share=1)
    trainer = fit(Healthy(), [look])
    tags = steps(events, trainer)
    assert sorted(tags) == ["2.10 VisualizeInputs/x train", "2.10 VisualizeInputs/x val"]
    assert tags["2.10 VisualizeInputs/x train"][0] == tags["2.10 VisualizeInputs/x val"][0] == 0
    assert len(tags["2.10 VisualizeInputs/x train"]) == 2
    assert len(tags["2.10 VisualizeInputs/x val"]) == 3, "sanity check and two epochs"


def test_one_finding_tells_what_was_drawn(fit):
    look = VisualizeInputs()
    fit(Healthy(), [look])
    (finding,) = look.findings
    assert finding.status is Status.PASSED
    assert finding.message.startswith(f"drew x: rows (32, {FEATURES}), float32, mean ")
    assert finding.evidence == {"inputs": 1, "examples": 32}
    assert finding.step == 0


def test_what_entered_is_told_if_no_examples_are_to_be_drawn(fit, events):
    look = VisualizeInputs(keep_examples=False)
    assert not events(fit(Healthy(), [look])).Tags()["images"]
    (finding,) = look.findings
    assert finding.message.startswith(f"saw x: rows (32, {FEATURES}), float32, mean ")


def test_the_beginning_and_the_end_of_a_long_run_are_kept(fit, events):
    trainer = fit(Healthy(), [VisualizeInputs(max_share=1)], max_epochs=20, limit_train_batches=1, limit_val_batches=1)
    for tag, seen in steps(events, trainer).items():
        assert len(seen) <= 10, tag
        assert seen[0] == 0
        assert seen[-1] >= 18, tag


def test_epochs_in_between_are_not_drawn(fit, events):
    trainer = fit(Healthy(), [VisualizeInputs(every_n_epochs=3, max_share=1)], max_epochs=5, limit_train_batches=1)
    assert steps(events, trainer)["2.10 VisualizeInputs/x train"] == [0, 3]


def test_no_sanity_check_and_no_validation(fit, events):
    trainer = fit(Healthy(), [VisualizeInputs()], num_sanity_val_steps=0)
    assert sorted(steps(events, trainer)) == ["2.10 VisualizeInputs/x train", "2.10 VisualizeInputs/x val"]
    trainer = fit(Healthy(), [VisualizeInputs()], limit_val_batches=0)
    assert sorted(steps(events, trainer)) == ["2.10 VisualizeInputs/x train"]


def test_each_validation_loader_has_its_own_cards(fit, events):
    class Two(Healthy):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self(batch[0])

        def val_dataloader(self):
            return [DataLoader(self.data(16, i), 8) for i in range(2)]

    tags = steps(events, fit(Two(), [VisualizeInputs(max_share=1)]))
    assert sorted(tags) == [
        "2.10 VisualizeInputs/x train",
        "2.10 VisualizeInputs/x val",
        "2.10 VisualizeInputs/x val 1",
    ]


def test_there_is_no_time_for_more_in_a_short_run(fit, events):
    trainer = fit(Healthy(), [VisualizeInputs(max_share=0)], max_epochs=3)
    assert steps(events, trainer) == {"2.10 VisualizeInputs/x train": [0], "2.10 VisualizeInputs/x val": [0]}


def test_several_validations_in_an_epoch_are_drawn_once(fit, events):
    trainer = fit(Healthy(), [VisualizeInputs(max_share=1)], val_check_interval=2)
    assert len(steps(events, trainer)["2.10 VisualizeInputs/x val"]) == 3


def test_validate_alone_draws_nothing(fit, events):
    look, module = VisualizeInputs(max_share=1), Healthy()
    trainer = fit(module, [look])
    before = steps(events, trainer)
    trainer.validate(module, verbose=False)
    assert steps(events, trainer) == before
    assert len(look.findings) == 1


def test_nothing_is_watched_on_steps_that_are_not_shown(fit, monkeypatch):
    watched = []
    attach = Probe.attach
    monkeypatch.setattr(Probe, "attach", lambda *a: watched.append(a[1]) or attach(*a))
    fit(Healthy(), [VisualizeInputs(max_share=1)])
    assert sorted(watched) == ["training_step"] * 2 + ["validation_step"] * 3


# -- what


def test_what_is_drawn_is_what_entered_the_network(fit, cards):
    """Not the batch: the step augments it."""

    class Augments(Module):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.loss(self.net(1 - x), y)

    images = torch.rand(8, 1, 8, 8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    fit(Augments(net, F.cross_entropy, images, torch.arange(8) % 3), [VisualizeInputs()], num_sanity_val_steps=0)
    picture = dict(cards)["train input"]
    label, zoom = picture.texts[0], layout(4, 8, 8)[1][0] // 8
    right, bottom = round(label.x) + 8 * zoom, round(label.y) - 26  # above its caption
    first = picture.raster[bottom - 8 * zoom : bottom, right - 8 * zoom : right, 0]
    expected = np.rint(255 * (1 - images[0, 0].double().numpy())).repeat(zoom, 0).repeat(zoom, 1)
    assert (first == expected).all()


def test_the_event_file_holds_the_figure(fit, events, cards):
    trainer = fit(Healthy(), [VisualizeInputs()], max_epochs=1)
    event = events(trainer).Images("2.10 VisualizeInputs/x train")[0]
    image = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert (image == pixels(dict(cards)["train x"])).all()


def test_training_and_validation_share_black_and_white(fit, cards):
    """A validation set that was not normalised must not look like one that was."""

    class Differs(Module):
        def validation_step(self, batch, batch_idx):
            self.net(batch[0] / 10)

    images = torch.rand(8, 1, 8, 8) * 4 - 2
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    module = Differs(net, F.cross_entropy, images, torch.arange(8) % 3)
    fit(module, [VisualizeInputs()], num_sanity_val_steps=0, max_epochs=1)
    train, val = (dict(cards)[f"{stage} input"] for stage in ("train", "val"))
    assert train.note == val.note
    assert np.ptp(val.raster[60:150].astype(int)) < np.ptp(train.raster[60:150].astype(int))


def test_nothing_is_clipped_when_the_sanity_check_saw_a_smaller_range(fit, cards):
    class Grows(Module):
        def training_step(self, batch, batch_idx):
            return self.loss(self.net(batch[0] * 7), batch[1])

        def validation_step(self, batch, batch_idx):
            self.net(batch[0])

    module = Grows(nn.Linear(5, 3), F.cross_entropy, torch.eye(5), torch.arange(5) % 3)
    fit(module, [VisualizeInputs(max_share=1)], max_epochs=1)
    last = [picture.words[-1] for _, picture in cards]
    assert last == ["2", "6", "6"], "the last tick: the range never gets smaller"


def test_hidden_states_do_not_outvote_the_batch(fit):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(5, 3, num_layers=2, batch_first=True)

        def forward(self, x, hidden, cell):
            return self.rnn(x, (hidden, cell))[0][:, -1]

    class Hidden(Module):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.loss(self.net(x, torch.zeros(2, len(x), 3), torch.zeros(2, len(x), 3)), y)

    look = VisualizeInputs()
    fit(Hidden(Net(), F.cross_entropy, torch.rand(8, 30, 5), torch.arange(8) % 3), [look])
    assert "net.x: sequences (8, 30, 5)" in look.findings[0].message
    assert "net.hidden: values (2, 8, 3)" in look.findings[0].message


def test_targets_at_first_and_predictions_later(fit, cards):
    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.weight * F.one_hot(x[:, 0, 0, 0].long(), 5).float()

    x = torch.rand(8, 1, 8, 8)
    x[:, 0, 0, 0] = torch.arange(8.0) % 5
    fit(Module(Sure(), F.cross_entropy, x, torch.tensor([0, 1, 2, 4, 4, 4, 0, 1])), [VisualizeInputs(max_share=1)])
    train = [picture.words[:4] for name, picture in cards if name == "train x"]
    assert train == [["0", "1", "2", "4"], ["0 ✓", "1 ✓", "2 ✓", "4, said 3"]]


def test_targets_are_not_drawn_as_inputs(fit, events):
    class OwnLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x, labels, y):
            return F.cross_entropy(self.layer(x), labels)

    class Calls(Module):
        def training_step(self, batch, batch_idx):
            return self.net(batch[0], batch[1], batch[1])

    trainer = fit(Calls(OwnLoss(), None, torch.rand(8, 5), torch.arange(8) % 3), [VisualizeInputs()])
    assert {tag.split("/")[1] for tag in steps(events, trainer)} == {"x train", "x val"}


def test_a_normalisation_is_undone_in_the_run(fit, cards):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    module = Module(net, F.cross_entropy, (torch.rand(8, 1, 8, 8) - 0.5) / 0.2, torch.arange(8) % 3)
    fit(module, [VisualizeInputs(mean=[0.5], std=[0.2])])
    assert dict(cards)["train input"].note == "black 0, white 1, undone"


def test_tokens_with_shifted_targets(fit, cards):
    ids = torch.randint(1, 30, (8, 13))
    net = nn.Sequential(nn.Embedding(30, 4), nn.Linear(4, 30))
    module = Module(net, lambda a, b: F.cross_entropy(a.flatten(0, 1), b.flatten()), ids[:, :-1], ids[:, 1:])
    fit(module, [VisualizeInputs(decode=lambda row: "-".join(map(str, row)), max_share=1)])
    first, last = (next(picture for name, picture in order if name == "train input") for order in (cards, cards[::-1]))
    assert first.words[:2] == ["input", "true"], "nothing is said before the first step"
    assert first.words[2:6] == [str(i) for pair in zip(ids[0, :2], ids[0, 1:3], strict=True) for i in map(int, pair)]
    assert last.words[:3] == ["input", "true", "said"]


def test_several_inputs_have_a_card_each(fit, events):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(30, 3), nn.Embedding(9, 3)

        def forward(self, image, *, token):
            return self.a(image) + self.b(token).mean(1)

    class Keywords(Module):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0], token=batch[1]), batch[2])

    look = VisualizeInputs()
    trainer = fit(Keywords(Two(), None, torch.rand(8, 30), torch.randint(9, (8, 20)), torch.arange(8) % 3), [look])
    assert {tag.split("/")[1] for tag in steps(events, trainer)} == {
        "image train", "token train", "image val", "token val",
    }  # fmt: skip
    assert "net.image: rows" in look.findings[0].message
    assert "net.token: rows of token ids" in look.findings[0].message


def test_dozens_of_inputs_are_cut(fit, events):
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, xs):
            return self.layer(sum(xs))

    class Lists(Module):
        def training_step(self, batch, batch_idx):
            return self.net([batch[0] + i for i in range(20)]).mean()

    look = VisualizeInputs()
    trainer = fit(Lists(Many(), None, torch.rand(8, 5)), [look], limit_val_batches=0)
    assert len(steps(events, trainer)) == MAX_CARDS
    assert "14 more inputs are not drawn" in look.findings[0].message


def test_a_graph(fit, events):
    @dataclass
    class Graph:
        x: torch.Tensor
        edges: torch.Tensor

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x, edges):
            return self.layer(x + x[edges[0]].mean(0))

    class Graphs(Module):
        def training_step(self, batch, batch_idx):
            return self.net(batch.x, batch.edges).square().mean()

        def train_dataloader(self):
            return DataLoader([Graph(torch.rand(30, 4), torch.randint(30, (2, 90)))], batch_size=None)

    look = VisualizeInputs()
    trainer = fit(Graphs(Net(), None, torch.rand(1)), [look], limit_val_batches=0)
    assert len(steps(events, trainer)) == 2
    assert "net.edges: edges of a graph (2, 90)" in look.findings[0].message


# -- nothing to draw


def only(look):
    (finding,) = look.findings
    assert finding.status is Status.SKIPPED
    return finding.message


@pytest.mark.parametrize("logger", [False, "csv"])
def test_where_nothing_takes_pictures_it_says_so_once(fit, tmp_path, logger):
    look = VisualizeInputs()
    fit(Healthy(), [look], logger=CSVLogger(tmp_path) if logger else False)
    assert only(look) == "the trainer has no logger that takes pictures, such as a TensorBoardLogger"


def test_fast_dev_run(fit):
    look = VisualizeInputs()
    fit(Healthy(), [look], fast_dev_run=True)
    assert only(look) == "fast_dev_run writes no pictures"


def test_no_network_is_called(fit):
    class NoNet(Module):
        def __init__(self):
            super().__init__(None, None, torch.rand(8, 3))
            self.weight = nn.Parameter(torch.ones(3))

        def training_step(self, batch, batch_idx):
            return (batch[0] * self.weight).mean()

    look = VisualizeInputs()
    fit(NoNet(), [look])
    assert "no call of a module with parameters was seen in the first train step" in only(look)


def test_no_tensor_enters_the_network(fit):
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, count):
            return self.layer(torch.ones(count, 3)).mean()

    class Alone(Module):
        def training_step(self, batch, batch_idx):
            return self.net(4)

    look = VisualizeInputs()
    fit(Alone(Draws(), None, torch.rand(8, 3)), [look])
    assert only(look) == "no tensor of one shape entered net from outside"


@pytest.mark.parametrize("settings", [{"limit_train_batches": 0}, {"max_epochs": 0}])
def test_no_training(fit, settings):
    look = VisualizeInputs()
    fit(Healthy(), [look], **settings)
    assert only(look) == "no training step was run"


def test_a_step_that_is_left_out_leaves_no_watch_behind(fit):
    class Leaves(Healthy):
        def on_train_batch_start(self, batch, batch_idx):
            return -1

    look, module = VisualizeInputs(), Leaves()
    fit(module, [look])
    assert only(look) == "no training step was run"
    assert "training_step" not in module.__dict__


def test_what_goes_wrong_is_said_once(fit, monkeypatch):
    def crash(*_):
        msg = "boom"
        raise RuntimeError(msg)

    monkeypatch.setattr(visualize_inputs, "recognise", crash)
    look = VisualizeInputs()
    trainer = fit(Healthy(), [look])
    assert "boom" in only(look)
    assert trainer.global_step == 16


# -- hostile batches


def batches(name):
    x, y = torch.randn(8, FEATURES), torch.arange(8) % CLASSES
    return {
        "one example": [[x[:1], y[:1]]] * 2,
        "NaN": [[x * torch.nan, y]],
        "strings": [{"x": x, "y": y, "name": ["a"] * 8, "path": object(), "none": None}],
        "ragged": [[x[:n], y[:n]] for n in (8, 3, 1)],
        "empty": [[x[:0], y[:0]]],
    }[name]


@pytest.mark.parametrize("name", ["one example", "NaN", "strings", "ragged", "empty"])
def test_hostile_batches(fit, name):
    class Hostile(Healthy):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(FEATURES, CLASSES)

        def training_step(self, batch, batch_idx):
            x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
            return F.cross_entropy(self.net(x), y)

        def validation_step(self, batch, batch_idx):
            self.training_step(batch, batch_idx)

        def train_dataloader(self):
            return DataLoader(batches(name), batch_size=None)

        val_dataloader = train_dataloader

    look = VisualizeInputs()
    trainer = fit(Hostile(), [look])
    assert trainer.state.finished
    assert [finding.status for finding in look.findings] == [Status.PASSED]


def test_empty_inputs_take_no_place_of_others(fit, events):
    class Covariates(Healthy):
        def forward(self, x, **empty):
            return super().forward(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.cross_entropy(self(x=x, **{f"a{i}": x[:, :0] for i in range(9)}), y)

    look = VisualizeInputs()
    trainer = fit(Covariates(), [look], limit_val_batches=0)
    assert {tag.split("/")[-1] for tag in events(trainer).Tags()["images"]} == {"x train"}
    assert look.findings[0].evidence["inputs"] == 10
    assert "nan" not in look.findings[0].message


def test_every_view_of_an_encoder_called_twice_is_drawn(fit, events):
    class Contrastive(Healthy):
        def training_step(self, batch, batch_idx):
            x, y = batch
            first, second, again = self(x), self(x + torch.randn_like(x)), self(x)
            return F.mse_loss(first, second) + F.cross_entropy(again, y)

    look = VisualizeInputs()
    trainer = fit(Contrastive(), [look], limit_val_batches=0)
    assert {tag.split("/")[-1] for tag in events(trainer).Tags()["images"]} == {"x train", "x, call 2 train"}
    assert look.findings[0].evidence["inputs"] == 1
    assert "x, call 2: rows (" in look.findings[0].message


def test_of_a_loop_over_time_the_first_step_is_drawn(fit, events):
    class OverTime(Healthy):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, CLASSES)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.cross_entropy(sum(self.net(x[:, i : i + 1]) for i in range(FEATURES)), y)

    trainer = fit(OverTime(), [VisualizeInputs()], limit_val_batches=0)
    assert [tag.split("/")[-1] for tag in events(trainer).Tags()["images"]] == ["input train"]


def test_an_empty_validation_loader(fit):
    class NoVal(Healthy):
        def val_dataloader(self):
            return DataLoader(TensorDataset(torch.rand(0, FEATURES)), 8)

    look = VisualizeInputs()
    fit(NoVal(), [look])
    assert [finding.status for finding in look.findings] == [Status.PASSED]


# -- the rest


@pytest.mark.parametrize("bad", [{"max_examples": 0}, {"every_n_epochs": 0}])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        VisualizeInputs(**bad)


def test_it_holds_no_tensors_after_the_run(fit):
    look = VisualizeInputs()
    fit(Healthy(), [look])
    assert not list(tensors({name: value for name, value in vars(look).items() if name != "log"}))
    assert pickle.loads(pickle.dumps(look)).findings == look.findings  # noqa: S301


def test_random_numbers_of_decode_do_not_disturb_the_run(fit):
    ids = torch.randint(1, 30, (8, 13))
    ends = []
    for callbacks in ([], [VisualizeInputs(decode=lambda row: str(torch.rand(len(row))))]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(30, 4), nn.Dropout(0.5), nn.Linear(4, 30))
        module = Module(net, lambda a, b: F.cross_entropy(a.flatten(0, 1), b.flatten()), ids[:, :-1], ids[:, 1:])
        fit(module, callbacks)
        ends.append(torch.cat([p.flatten() for p in module.parameters()]))
    assert torch.equal(*ends)


# -- answers


def answers_of(loss, x, y, net=None):
    module = Module(net or nn.Linear(x.shape[-1], x.shape[-1]), loss, x, y)
    probe = Probe.attach(module, "training_step")
    module.training_step((x, y), 0)
    return answers(probe.result(), len(x))


def test_answers_of_classes():
    found = answers_of(F.cross_entropy, torch.rand(4, 5), torch.tensor([0, 1, 2, -100]))
    assert found.target.tolist() == [0, 1, 2, -100]
    assert found.prediction.shape == (4,)
    assert found.ignored == -100
    soft = answers_of(F.cross_entropy, torch.rand(4, 5), torch.eye(5)[:4])
    assert soft.target.tolist() == [0, 1, 2, 3]


def test_answers_of_yes_or_no():
    x = torch.tensor([[2.0], [-2.0]])
    net = nn.Linear(1, 1)
    nn.init.ones_(net.weight)
    nn.init.zeros_(net.bias)
    found = answers_of(F.binary_cross_entropy_with_logits, x, torch.tensor([[1.0], [1.0]]), net)
    assert (found.target.tolist(), found.prediction.tolist()) == ([[1], [1]], [[1], [0]])
    probabilities = answers_of(
        lambda p, y: F.binary_cross_entropy(p.sigmoid(), y), x, torch.tensor([[1.0], [0.0]]), net
    )
    assert probabilities.prediction.tolist() == [[1], [0]]
    soft = answers_of(F.binary_cross_entropy_with_logits, x, torch.tensor([[0.3], [0.6]]), net)
    assert soft.prediction.flatten().tolist() == pytest.approx([0.8808, 0.1192], abs=1e-4)


def test_answers_of_numbers_and_of_flattened_sequences():
    found = answers_of(F.mse_loss, torch.rand(4, 5), torch.rand(4, 5))
    assert found.target.shape == found.prediction.shape == (4, 5)
    flat = answers_of(
        lambda a, b: F.cross_entropy(a.flatten(0, 1), b.flatten()), torch.rand(4, 6, 5), torch.ones(4, 6).long()
    )
    assert flat.target.shape == flat.prediction.shape == (4, 6)


def test_answers_of_a_loss_by_hand_are_looked_for_in_the_batch():
    found = answers_of(lambda a, b: -a.log_softmax(1)[torch.arange(4), b].mean(), torch.rand(4, 5), torch.arange(4))
    assert found.target.tolist() == [0, 1, 2, 3]
    assert found.prediction.shape == (4,)
    y = torch.rand(4, 5) + 1
    values = answers_of(lambda a, b: (a - b).abs().mean(), torch.rand(4, 5), y)
    assert torch.equal(values.target, y)
    assert values.prediction.shape == (4, 5)


def test_what_was_augmented_is_no_target():
    class Augments(Module):
        def training_step(self, batch, batch_idx):
            return self.net(batch[0] + 1).square().mean()

    module = Augments(nn.Linear(5, 5), None, x := torch.rand(4, 5))
    probe = Probe.attach(module, "training_step")
    module.training_step((x,), 0)
    assert answers(probe.result(), 4).target is None


@pytest.mark.parametrize("logits", [True, False])
def test_of_a_mask_with_a_loss_by_hand_something_is_said(logits):
    def dice(a, b):
        p = a.sigmoid() if logits else a
        return 1 - 2 * (p * b).sum() / (p + b).sum()

    target = (torch.rand(4, 1, 8, 8) > 0.5).float()
    net = nn.Conv2d(1, 1, 1) if logits else nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid())
    found = answers_of(dice, x := torch.rand(4, 1, 8, 8), target, net)
    assert torch.equal(found.target, target)
    assert torch.equal(found.prediction, (net(x) > (0 if logits else 0.5)).float())


def test_quantiles_and_reconstructions_of_losses_by_hand():
    x = torch.rand(4, 9)
    net = nn.Sequential(nn.Linear(9, 15), nn.Unflatten(1, (5, 3)))
    found = answers_of(lambda a, b: (a - b[..., None]).abs().mean(), x, torch.rand(4, 5), net)
    assert (found.target.shape, found.prediction.shape) == ((4, 5), (4, 5, 3))

    class Auto(Module):
        def training_step(self, batch, batch_idx):
            return (self.net(batch[0]) - batch[0]).square().mean()

    module = Auto(nn.Conv2d(1, 1, 3, padding=1), None, x := torch.rand(4, 1, 8, 8))
    probe = Probe.attach(module, "training_step")
    module.training_step((x,), 0)
    found = answers(probe.result(), 4)
    assert found.target is None
    assert torch.equal(found.prediction, module.net(x))


@pytest.mark.parametrize(
    "make", [Normal, lambda m, s: Independent(Normal(m, s), 1), lambda m, s: StudentT(m + 9, m, s)]
)
def test_of_likelihoods_quantiles_are_drawn(make):
    class Net(nn.Linear):
        def forward(self, x):
            return make(super().forward(x), torch.ones(4, 5))

    x, y = torch.rand(4, 9), torch.rand(4, 5)
    found = answers_of(lambda said, y: -said.log_prob(y).mean(), x, y, net := Net(9, 5))
    assert (found.target.shape, found.prediction.shape) == ((4, 5), (4, 5, 3))
    assert torch.allclose(found.prediction[..., 1], net(x).mean)
    assert (found.prediction.diff(dim=-1) > 1).all()


def test_of_a_likelihood_of_one_number_the_mean_is_drawn():
    class Net(nn.Linear):
        def forward(self, x):
            return Normal(super().forward(x)[:, 0], torch.ones(4))

    x, y = torch.rand(4, 9), torch.rand(4)
    found = answers_of(lambda said, y: -said.log_prob(y).mean(), x, y, net := Net(9, 1))
    assert torch.equal(found.prediction, net(x).mean)


def test_lists_of_boxes_are_filled_up():
    boxes = [torch.rand(k, 4) for k in (2, 0, 3)]

    class Detector(Module):
        def training_step(self, batch, batch_idx):
            return self.net(batch[0]).mean()

    module = Detector(nn.Conv2d(1, 1, 3), None, x := torch.rand(3, 1, 8, 8))
    probe = Probe.attach(module, "training_step")
    module.training_step((x, [{"boxes": b, "labels": torch.ones(len(b)).long()} for b in boxes]), 0)
    target = answers(probe.result(), 3).target
    assert target.shape == (3, 3, 4)
    assert [int(row.isfinite().all(-1).sum()) for row in target] == [2, 0, 3]


def test_answers_of_a_loss_of_some_examples_are_looked_for_in_the_batch():
    found = answers_of(lambda a, b: F.mse_loss(a[:3], b[:3]), torch.rand(4, 5), torch.rand(4, 2, 5)[:, 0])
    assert found.target.shape == found.prediction.shape == (4, 5)


def test_a_tokenizer_is_given_once_for_all():
    def decode(ids):
        return str(ids)

    drawing = [callback for callback in recipe(decode=decode) if hasattr(callback, "decode")]
    assert {type(callback).__name__ for callback in drawing} >= {"VisualizeInputs", "PredictionDynamicsLogger"}
    assert all(callback.decode is decode for callback in drawing)
    own = VisualizeInputs(decode=repr)
    recipe(own, decode=decode)
    assert own.decode is repr


def test_names_of_columns_and_rates_come_from_the_batch(fit, cards):
    class Named(Module):
        def training_step(self, batch, batch_idx):
            x = torch.stack([batch["age"], batch["income"]], 1)
            return self.loss(self.net(x), batch["y"])

        def train_dataloader(self):
            data = {"age": torch.rand(8), "income": torch.rand(8), "y": torch.arange(8) % 3}
            return DataLoader([data], batch_size=None)

    fit(Named(nn.Linear(2, 3), F.cross_entropy, torch.rand(1)), [VisualizeInputs()], limit_val_batches=0)
    assert dict(cards)["train input"].words[:3] == ["age", "income", "true"]
