import copy
import gc
import pickle
import random
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from patients import Healthy
from torch import nn
from torch.utils.data import TensorDataset

from lightning_recipe.record.probe import Probe
from lightning_recipe.trial.calming import with_local_statistics, without_dropout
from lightning_recipe.trial.copies import copied, copied_with
from lightning_recipe.trial.course import LONGER, RAMP, Budget, Ramp, State, Stopping
from lightning_recipe.trial.isolation import eager, is_out_of_memory, isolated, memory_given_back, obstacle
from lightning_recipe.trial.short_fit import Fit, short_fit


def draws():
    return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002


def broken():
    with isolated():
        draws()
        raise ZeroDivisionError


def test_randomness_is_put_back_also_when_the_body_raises():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    with pytest.raises(ZeroDivisionError):
        broken()
    assert draws() == expected


def test_a_copy_shares_no_tensor_and_leaves_the_original_alone():
    module = Healthy()
    module.trainer = trainer = Trainer(barebones=True)
    module.data_set = TensorDataset(torch.zeros(3))
    module.last = module(torch.randn(4, 12))  # torch refuses to copy this
    duplicate = copied(module)
    assert module.trainer is trainer
    assert duplicate._trainer is None
    assert duplicate.data_set is module.data_set
    assert duplicate.last.grad_fn is None
    theirs = {t.data_ptr() for t in module.state_dict().values()}
    assert not theirs & {t.data_ptr() for t in duplicate.state_dict().values()}


def test_results_of_computations_kept_in_an_object_are_copied():
    module = Healthy()
    module.prior = torch.distributions.Normal(module(torch.zeros(4, 12)), 1.0)
    duplicate, (optimizer,), _ = copied_with(module, [torch.optim.Adam(module.parameters())])
    assert torch.equal(duplicate.prior.mean, module.prior.mean)
    assert module.prior.loc.grad_fn is not None
    assert duplicate.prior.loc.grad_fn is None
    assert optimizer.param_groups[0]["params"][0] is duplicate.net[0].weight


def test_a_copy_does_not_run_the_original_s_step():
    module = Healthy()
    probe = Probe.attach(module, "training_step")
    for duplicate in (copied(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301
        assert duplicate.training_step.__self__ is duplicate
    probe.detach()

    original = module.net[0].forward
    module.net[0].forward = lambda x: original(2 * x)  # would train the original's weights
    with pytest.raises(RuntimeError, match=r"net\.0\.forward was replaced"):
        copied(module)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS])
def test_optimizers_are_copied_with_their_state(kind):
    module = Healthy().eval()
    optimizer = kind(module.parameters(), lr=0.01)
    x, y = torch.randn(8, 12), torch.arange(8) % 4

    def step(module, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = module.loss(module(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)

    step(module, optimizer)
    duplicate, (same,), _ = copied_with(module, [optimizer])
    before = module.net[0].weight.detach().clone()
    step(duplicate, same)
    assert torch.equal(module.net[0].weight, before)
    step(module, optimizer)
    assert torch.equal(module.net[0].weight, duplicate.net[0].weight)


def test_the_state_of_an_optimizer_is_copied_when_somebody_asks():
    weight = torch.nn.Parameter(torch.ones(2))
    module = Healthy()
    module.weight = weight
    optimizer = torch.optim.Adam(module.parameters())
    module.weight.sum().backward()
    optimizer.step()
    moment = optimizer.state[weight]["exp_avg"]
    for ask in (
        lambda state, p: state[p],
        lambda state, p: state.get(p),
        lambda state, p: state.setdefault(p, {}),
        lambda state, p: dict(state.items())[p],
        lambda state, p: state.pop(p),
        lambda state, p: copy.deepcopy(state, {id(p): p})[p],
    ):
        duplicate, (same,), _ = copied_with(module, [optimizer])
        found = ask(same.state, duplicate.weight)["exp_avg"]
        assert torch.equal(found, moment)
        assert found is not moment
    duplicate, (same,), _ = copied_with(module, [optimizer])
    assert duplicate.weight in same.state
    assert len(same.state) == len(optimizer.state) == len(list(same.state)) == len(same.state.values())
    duplicate, (same,), _ = copied_with(module, [optimizer])
    same.state.clear()
    assert same.state[duplicate.weight] == {}


def test_schedules_work_on_the_copied_optimizer():
    module = Healthy()
    [optimizer], [schedule] = module.configure_optimizers()
    _, (same,), (schedule_too,) = copied_with(module, [optimizer], [schedule])
    schedule_too.step()
    assert same.param_groups[0]["lr"] < optimizer.param_groups[0]["lr"]


def test_optimizers_and_schedules_that_a_module_holds_are_the_copied_ones():
    module = Healthy()
    [optimizer], [schedule] = module.configure_optimizers()
    module.held = [optimizer, schedule]
    duplicate, (same,), (schedule_too,) = copied_with(module, [optimizer], [schedule])
    assert duplicate.held == [same, schedule_too]
    assert schedule_too.optimizer is same
    assert same.param_groups[0]["params"][0] is duplicate.net[0].weight


def test_dropout_is_off_wherever_it_hides():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5)
    net = with_local_statistics(
        without_dropout(nn.Sequential(layer, nn.LSTM(8, 8, 2, dropout=0.5), nn.Dropout2d(0.5), nn.SyncBatchNorm(3)))
    )
    assert (layer.self_attn.dropout, layer.dropout.p, net[1].dropout, net[2].p) == (0, 0, 0, 0)
    net[3](torch.randn(2, 3, 4))  # SyncBatchNorm itself refuses the CPU


def test_out_of_memory_is_told():
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_sharded_parameters_are_an_obstacle():
    trainer = Trainer(barebones=True, accelerator="cpu")
    assert obstacle(trainer) is None
    trainer.strategy.__class__ = type("FSDPStrategy", (type(trainer.strategy),), {})
    assert "sharded" in obstacle(trainer)


def test_compiled_modules_run_uncompiled():
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    net = torch.compile(nn.Linear(2, 2), backend=backend)
    with eager(net):
        net(torch.zeros(1, 2))
    assert not calls


@pytest.mark.parametrize("held", [False, True])
def test_what_a_step_keeps_is_put_back_where_it_is_held(held):
    net = nn.ModuleDict({"learns": nn.Linear(1, 1), "follows": nn.Linear(1, 1), "norm": nn.BatchNorm1d(1)})
    net.register_buffer("queue", torch.zeros(1))
    net.hidden = torch.zeros(1)
    before = net["follows"].weight.item()
    state = State(net, list(net["learns"].parameters()), held=held)
    for _ in range(3):
        state.put_back()
        assert not held or (net.queue.item(), net.hidden.item(), net["follows"].weight.item()) == (0, 0, before)
        with torch.no_grad():
            net["follows"].weight += 1
            net["learns"].weight.fill_(2)
            net.queue += 1
        net.hidden = net.hidden + 1
    assert state.end()
    assert net["learns"].weight.item() == 2
    assert net.queue.item() == (0 if held else 3)


def test_running_statistics_are_no_state():
    norm = nn.BatchNorm1d(1)
    state = State(norm, list(norm.parameters()), held=False)
    state.put_back()
    norm(torch.ones(2, 1))
    assert not state.end()


def ended(budget, losses, *, probed=True, work=0.0):
    """The number of steps of a fit with these losses, the last again and again."""
    fit = Fit("SGD (lr 0.1)", work=work)
    stopping = Stopping(fit, budget)
    for number in range(10 * budget.steps):
        stopping.looks_at(number)
        fit.losses.append(losses[min(number, len(losses) - 1)])
        if stopping.is_over(number, probed=probed):
            return number + 1, fit
    return None, fit


def test_a_fit_ends_when_it_is_over_its_steps_are_or_its_loss_is_no_number():
    assert ended(Budget(20, 60, 60), [1.0])[0] == 20
    assert ended(Budget(20, 60, 60, over=lambda fit: len(fit.losses) == 5), [1.0])[0] == 5
    assert ended(Budget(20, 60, 60), [1.0, float("nan")])[0] == 2


def test_a_fit_that_is_on_its_way_goes_on_but_not_for_ever():
    steps, fit = ended(Budget(20, 60, 60, goes_on=lambda fit: True), [1.0])
    assert (steps, fit.longer) == (LONGER * 20, True)
    steps, fit = ended(Budget(20, 60, 60, goes_on=lambda fit: len(fit.losses) < 30), [1.0])
    assert (steps, fit.longer, fit.out_of_time) == (30, True, False)


def test_work_ends_a_fit_with_one_more_step_that_is_looked_into():
    steps, fit = ended(Budget(20, 1.0, 9.0), [1.0], work=0.1)
    assert (steps, fit.cut_short, fit.out_of_time) == (12, True, False)
    steps, fit = ended(Budget(20, 1.0, 9.0, fewest=15, wanted=15), [1.0], work=0.1)
    assert (steps, fit.cut_short) == (17, True), "fewer would not tell all"
    steps, fit = ended(Budget(20, 1.0, 1.4, fewest=10, wanted=15), [1.0], work=0.1)
    assert (steps, fit.cut_short) == (15, True), "as many as there is work for"
    steps, fit = ended(Budget(20, 1.0, 1.4, fewest=15), [1.0], work=0.1)
    assert (steps, fit.cut_short) == (4, True), "there is no work for as many as tell something"
    steps, fit = ended(Budget(20, 1.0, 1.4, falls=lambda fit: True), [1.0], work=0.1)
    assert (steps, fit.cut_short) == (15, True), "it is on its way, and has the work of others"
    steps, fit = ended(Budget(30, 1.0, 9.0, falls=lambda fit: len(fit.losses) < 20), [1.0], work=0.1)
    assert (steps, fit.cut_short) == (20, True), "it was on its way"
    steps, fit = ended(Budget(20, 1.0, 9.0, falls=lambda fit: True), [1.0], work=0.1)
    assert (steps, fit.cut_short) == (20, False), "it is on its way, and gets to its end"
    steps, fit = ended(Budget(20, 9.0, 9.0, ends=0.0), [1.0], work=0.1)
    assert (steps, fit.cut_short, fit.out_of_time) == (2, False, True)


@pytest.mark.parametrize("steps", [4, 20, 600])
def test_rates_rise_to_their_peak_and_are_held_there(steps):
    optimizer = torch.optim.SGD([{"params": nn.Linear(2, 2).parameters()}, {"params": nn.Linear(2, 2).parameters()}], 9)
    ramp = Ramp([optimizer], [[0.1, 0.2]], steps, force=False)
    length = min(RAMP, steps // 4)
    for number, factor in [(0, 0.0), (length, 1.0), (steps, 1.0)]:
        ramp.begin(number)
        assert [group["lr"] for group in optimizer.param_groups] == [0.1 * factor, 0.2 * factor]
    ramp.before_update()
    assert not ramp.overridden
    optimizer.param_groups[1]["lr"] = 0.3
    ramp.before_update()
    assert ramp.overridden
    ramp.begin(steps)
    assert optimizer.param_groups[1]["lr"] == 0.2


def test_a_line_search_begins_at_the_peak_and_force_takes_no_other_rate():
    search = torch.optim.LBFGS(nn.Linear(2, 2).parameters(), 0.5)
    Ramp([search], [[0.5]], 600, force=False).begin(0)
    assert search.param_groups[0]["lr"] == 0.5
    adam = torch.optim.Adam(nn.Linear(2, 2).parameters(), lr=torch.tensor(9.0))
    ramp = Ramp([adam], [[0.001]], 600, force=True)
    ramp.begin(600)
    adam.param_groups[0]["lr"].fill_(3.0)
    ramp.before_update()
    assert float(adam.param_groups[0]["lr"]) == pytest.approx(0.001)


def test_a_short_fit_that_raises_leaves_no_trace(fit):
    class Fragile(Healthy):
        tried = 0

        def training_step(self, batch, batch_idx):
            if self.trainer is not run["trainer"] and batch_idx == 3:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    from lightning.pytorch.callbacks import Callback  # noqa: PLC0415

    class Try(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            run["trainer"] = trainer
            before = draws()
            torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
            with pytest.raises(ZeroDivisionError):
                short_fit(trainer, pl_module, batch, Budget(10, 10.0, 10.0))
            after = draws()
            torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
            assert after == draws() != before
            assert pl_module.trainer is trainer
            assert all(p.grad is None for p in pl_module.parameters())

    run = {}
    fit(Fragile(), [Try()], max_steps=1, logger=False)
    assert run


# -- memory


class Knot:
    """Refers to itself."""

    def __init__(self):
        self.itself = self


def test_cycles_of_an_experiment_are_freed():
    with memory_given_back(torch.device("cpu")):
        knot = weakref.ref(Knot())
    assert knot() is None


@pytest.mark.parametrize("frozen", [0, 5])
def test_what_the_user_has_frozen_is_not_thawed(monkeypatch, frozen):
    called = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    for name in ("freeze", "collect", "unfreeze"):
        monkeypatch.setattr(gc, name, lambda name=name: called.append(name))
    with pytest.raises(ZeroDivisionError), memory_given_back(torch.device("cpu")):
        1 / 0  # noqa: B018
    assert called == (["collect"] if frozen else ["freeze", "collect", "unfreeze"])


class KeepsFeatures(nn.Module):
    """Reads by what hooks have kept: of a closure, of an object, of a list."""

    def __init__(self):
        super().__init__()
        self.net, self.kept, self.store, self.calls = nn.Linear(3, 2), {}, SimpleNamespace(seen={}), []
        self.net.register_forward_hook(self.keeping("net"))
        store, calls = self.store, []

        def hook(module, args, output):
            store.seen["net"] = output
            calls.append(module)

        self.net.register_forward_hook(hook)
        self.net.register_forward_hook(lambda *_, noted=self.note: noted())
        self.hook, self.noted = hook, 0

    def note(self):
        self.noted += 1

    def keeping(self, name):
        def hook(module, args, output):
            self.kept[name] = output

        return hook

    def forward(self, x):
        self.net(x)
        return self.kept["net"] + self.store.seen["net"]


def test_hooks_of_a_copy_work_on_the_copy():
    module = Healthy()
    module.net = KeepsFeatures()
    module.net(torch.ones(1, 3))
    before = dict(module.net.kept), dict(module.net.store.seen)
    duplicate, _, _ = copied_with(module, [])
    with torch.no_grad():
        duplicate.net.net.weight.zero_()
    assert torch.equal(duplicate.net(torch.ones(1, 3)), 2 * duplicate.net.net.bias[None])
    assert module.net.kept["net"] is before[0]["net"]
    assert module.net.store.seen["net"] is before[1]["net"]
    assert (module.net.noted, duplicate.net.noted) == (1, 2)
    calls = dict(zip(module.net.hook.__code__.co_freevars, module.net.hook.__closure__, strict=True))["calls"]
    assert len(calls.cell_contents) == 1
    assert all(part is not module.net.net for part in duplicate.modules())
