import lightning.pytorch as L
import pytest
import torch
from patients import Healthy
from torch import nn
from torch.nn import functional as F

from lightning_recipe.record.probe import Probe
from lightning_recipe.trial.replay import CannotReplayError, Replay, undisturbed

TRAINER = L.Trainer(barebones=True, accelerator="cpu")


def watched(module, *batch, method="training_step"):
    probe = Probe.attach(module, method)
    getattr(module, method)(batch if len(batch) > 1 else batch[0], 0)
    return probe.result()


class Plain(L.LightningModule):
    """Calls what it is given, without Lightning's logging."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)

    def training_step(self, batch, _):
        return F.mse_loss(self.net(batch[0]), batch[1])


def state(module):
    """Everything that a forward may have touched, compared by identity and by value."""
    return [
        (id(m), m.training, sorted(m.__dict__), {k: v.tolist() for k, v in m.named_buffers(recurse=False)})
        for m in module.modules()
    ]


class Switched(nn.Module):
    """Adds an offset, unless told not to."""

    def __init__(self):
        super().__init__()
        self.layer, self.offset, self.seen = nn.Linear(3, 2), True, False

    def forward(self, x):
        self.seen = True
        return self.layer(x) + 1000 * self.offset


def test_what_a_step_switches_for_a_call_is_found():
    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Switched()

        def training_step(self, batch, batch_idx):
            self.net.offset = batch_idx == 0
            loss = self.net(batch).square().mean()
            self.net.offset = True
            return loss

    module = Module()
    for batch_idx in range(2):
        probe = Probe.attach(module, "training_step")
        module.training_step(torch.ones(4, 3), batch_idx)
        step = probe.result()
        if batch_idx == 0:
            Replay.of(step, step.net_calls[0])
    with pytest.raises(CannotReplayError, match=r"net\.offset to False for its call only"):
        Replay.of(step, step.net_calls[0])


def test_gives_what_the_network_says_now_in_eval_mode():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    module = Plain(net=net)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    step = watched(module, x, y)
    replay = Replay.of(step, step.net_calls[-1])
    with torch.no_grad():
        net[0].weight.mul_(2)
        expected = net.eval()(x)
    net.train()
    assert torch.equal(replay.run(TRAINER, module)[""], expected)
    assert not torch.equal(step.net_calls[-1].output, expected)


def test_leaves_no_trace():
    class Messy(nn.Module):
        """Does in its forward, in any mode, everything that it should not do."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("bank", torch.zeros(1, 3))
            self.seen, self.latest, self.plain = [], {}, torch.zeros(2)
            self.frozen = nn.Dropout().eval()

        def forward(self, x):
            self.calls += 1
            self.bank = x[:1].clone()
            self.seen.append(x)
            self.latest["x"] = x
            self.plain.add_(torch.rand(2))
            self.new = x
            self.train()
            return self.linear(self.frozen(x.relu_()))

    module = Plain(net=Messy())
    step = watched(module, torch.randn(8, 3), torch.randn(8, 1))
    net, module.net.training = module.net, True
    net.frozen.training = False
    before, kept, stream = state(module), (net.bank, net.seen[:], net.plain.clone()), torch.get_rng_state()
    replay = Replay.of(step, step.net_calls[-1])
    first, second = (replay.run(TRAINER, module)[""] for _ in range(2))
    assert torch.equal(first, second), "inputs are written to"
    assert state(module) == before
    assert net.bank is kept[0]
    assert len(net.seen) == len(kept[1])
    assert torch.equal(net.plain, kept[2])
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.is_grad_enabled()


def test_restores_when_the_body_raises():
    module = Healthy()
    module.net.training = False
    before = state(module)

    def breaks():
        with undisturbed(module):
            module.net[1].running_mean.add_(1)
            module.net.train()
            raise LookupError

    with pytest.raises(LookupError):
        breaks()
    assert state(module) == before


def test_does_not_log():
    class Logs(Plain):
        def forward(self, x):
            self.log("inside", x.mean())
            self.log_dict({"too": x.mean()})
            return self.net(x)

    module = Logs(net=nn.Linear(3, 1))
    with undisturbed(module):
        module(torch.ones(2, 3))  # without a trainer, log raises
    assert "log" not in module.__dict__


def test_a_chain_of_modules_is_run_as_a_chain():
    class Chain(Plain):
        def training_step(self, batch, _):
            hidden = self.encoder(batch[0])
            return F.mse_loss(self.head(hidden.flatten(1), scale=torch.ones(1)), batch[1])

    class Head(nn.Linear):
        def forward(self, x, *, scale):
            return super().forward(x) * scale

    module = Chain(encoder=nn.Conv1d(1, 2, 3), unused=nn.Linear(1, 1), head=Head(4, 1))
    x = torch.randn(8, 1, 4)
    step = watched(module, x, torch.randn(8, 1))
    replay = Replay.of(step, step.net_calls[-1])
    with torch.no_grad():
        module.encoder.weight.mul_(2)
        expected = module.head(module.encoder(x).flatten(1), scale=1)
    assert torch.equal(replay.run(TRAINER, module)[""], expected)
    assert torch.allclose(replay.first(3, of=8).run(TRAINER, module)[""], expected[:3])


def test_code_between_modules_can_not_be_repeated():
    class Sampled(Plain):
        def training_step(self, batch, _):
            mean = self.encoder(batch[0])
            return F.mse_loss(self.decoder(mean + torch.randn_like(mean)), batch[0])

    module = Sampled(encoder=nn.Linear(3, 2), decoder=nn.Linear(2, 3))
    step = watched(module, torch.randn(8, 3), None)
    with pytest.raises(CannotReplayError, match="encoder, then computes the input of decoder by code outside"):
        Replay.of(step, step.net_calls[-1])
    Replay.of(step, step.net_calls[0])


def test_outputs_may_be_nested():
    class Nested(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x), "more": (x,)}

    class Uses(Plain):
        def training_step(self, batch, _):
            return F.mse_loss(self.net(batch[0])["logits"], batch[1])

    module = Uses(net=Nested(3, 1))
    step = watched(module, torch.randn(8, 3), torch.randn(8, 1))
    assert set(Replay.of(step, step.net_calls[-1]).run(TRAINER, module)) == {"logits", "more[0]"}


def test_a_forward_that_raises_in_eval_mode_is_a_reason_and_no_crash():
    class TrainsOnly(nn.Linear):
        def forward(self, x):
            if not self.training:
                raise RuntimeError
            return super().forward(x)

    module = Plain(net=TrainsOnly(3, 1))
    step = watched(module, torch.randn(8, 3), torch.randn(8, 1))
    with pytest.raises(CannotReplayError, match="net in eval mode raised RuntimeError"):
        Replay.of(step, step.net_calls[-1]).run(TRAINER, module)


def test_a_forward_that_writes_to_parameters_is_refused_and_undone():
    class Normalised(nn.Linear):
        def forward(self, x):
            self.weight.data.div_(self.weight.data.norm() + 1)
            return super().forward(x)

    module = Plain(net=Normalised(3, 1))
    step = watched(module, torch.randn(8, 3), torch.randn(8, 1))
    before = module.net.weight.detach().clone()
    with pytest.raises(CannotReplayError, match="changes parameters"):
        Replay.of(step, step.net_calls[-1]).run(TRAINER, module, watch_parameters=True)
    assert torch.equal(module.net.weight, before)


def test_precision_applies():
    module = Plain(net=nn.Linear(3, 1))
    step = watched(module, torch.randn(8, 3), torch.randn(8, 1))
    trainer = L.Trainer(barebones=True, accelerator="cpu", precision="bf16-mixed")
    assert Replay.of(step, step.net_calls[-1]).run(trainer, module)[""].dtype is torch.bfloat16


def test_compiled_modules_are_not_compiled_again():
    compilations = []

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    module = Plain(net=torch.compile(nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1)), backend=backend))
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    step = watched(module, x, y)
    once = len(compilations)
    replay = Replay.of(step, step.net_calls[-1])
    replay.first(3, of=8).run(TRAINER, module)
    replay.run(TRAINER, module)
    assert len(compilations) == once >= 1
    module.training_step((x, y), 0)
    assert len(compilations) == once


def test_sharded_parameters_are_left_alone(monkeypatch):
    class FSDPStrategy:
        pass

    module = Plain(net=nn.Linear(3, 1))
    step = watched(module, torch.randn(8, 3), torch.randn(8, 1))
    trainer = L.Trainer(barebones=True, accelerator="cpu")
    monkeypatch.setattr(trainer._accelerator_connector, "strategy", FSDPStrategy())
    with pytest.raises(CannotReplayError, match="sharded"):
        Replay.of(step, step.net_calls[-1]).run(trainer, module)


def test_a_network_that_takes_gradients_itself_leaves_none():
    class Forces(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = nn.Linear(3, 1)

        def forward(self, x):
            x = x.detach().requires_grad_()
            energy = self.energy(x).square().sum()
            energy.backward(retain_graph=True)
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    module = Plain(net=Forces())
    step = watched(module, torch.randn(8, 3), torch.randn(8, 3))
    before = module.net.energy.weight.grad.clone()
    output = Replay.of(step, step.net_calls[-1]).run(TRAINER, module)[""]
    assert torch.equal(output, step.net_calls[-1].output)
    assert not output.requires_grad
    assert torch.equal(module.net.energy.weight.grad, before)
