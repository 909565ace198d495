"""Events of a step: wrong answers first. Who made a tensor, and who took it?"""

import copy
import gc
import pickle
import weakref

import lightning.pytorch as L
import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.checkpoint import checkpoint

from lightning_recipe.record.outputs import returned, without_parameters
from lightning_recipe.record.probe import Probe
from lightning_recipe.record.step import Need
from lightning_recipe.trial.copies import copied

X = torch.randn(8, 4)


class Net(nn.Module):
    """A Linear, a BatchNorm, and what else a test gives; `way` goes from one to the other."""

    def __init__(self, way, **children):
        super().__init__()
        self.linear, self.norm, self.way = nn.Linear(4, 4), nn.BatchNorm1d(4), way
        for name, child in children.items():
            setattr(self, name, child)

    def training_step(self, batch, batch_idx=0):
        return self.way(self, batch)


class Memory(nn.Module):
    """Computes with what it was not given."""

    def keep(self, x):
        self.kept = [x]

    def forward(self, x):
        return x + self.kept.pop()


def watched(way, needs=Need.WIRING, batch=X, **children):
    module = Net(way, **children)
    return module, observed(module, needs, batch)


def observed(module, needs=Need.WIRING, batch=X):
    probe = Probe.attach(module, "training_step", needs)
    module.training_step(batch, 0)
    return probe.result()


def told(step):
    return [event.name for event in step.events if event.kind != "returned"]


# -- the Linear's output goes to the BatchNorm, and nowhere else


@pytest.mark.parametrize("needs", [Need.WIRING, ~Need(0)])
@pytest.mark.parametrize(
    "way",
    [
        lambda m, x: m.norm(h := m.linear(x)).sum() + h.sum(),
        lambda m, x: (m.norm(h := m.linear(x)) + h).sum(),
        lambda m, x: m.norm(m.relu(m.linear(x))).sum(),
        lambda m, x: m.norm(F.relu(m.linear(x), inplace=True)).sum(),
        lambda m, x: m.norm(m.linear(x).relu_()).sum(),
        lambda m, x: m.norm(m.linear(x).view(8, 4)).sum(),
        lambda m, x: m.norm(m.linear(x).T.reshape(8, 4)).sum(),
        lambda m, x: m.norm(m.linear(x).permute(1, 0).permute(1, 0)).sum(),
        lambda m, x: m.norm(m.linear(x) * 2).sum(),
        lambda m, x: m.norm(m.linear(x)).sum() + m.linear(x).sum(),
        lambda m, x: m.norm(m.linear(x)).sum() + m.other(m.linear(x)).sum(),
        lambda m, x: m.norm(h := m.linear(x)).sum() + float(h.mean()),
        lambda m, x: m.norm(h := m.linear(x)).sum() + sum(h.flatten().tolist()),
        lambda m, x: m.norm(h := m.linear(x)).sum() + h.detach().numpy().sum(),
        lambda m, x: m.norm(h := m.linear(x)).sum() + torch.stack([h]).sum(),
        lambda m, x: m.norm(h := m.linear(x)).sum() + torch.vmap(lambda row: row.sum())(h).sum(),
        lambda m, x: m.norm(h := m.linear(x)).sum() + torch.func.grad(lambda y: y.sum())(h).sum(),
        lambda m, x: m.norm(h := m.linear(x)).sum() + (x.new_zeros(8, 4).copy_(h)).sum(),
        lambda m, x: [m.norm(h := m.linear(x)), h.register_hook(lambda g: 2 * g)][0].sum(),
        lambda m, x: [h := m.linear(x), v := h[:1], v.mul_(0), m.norm(h)][-1].sum(),
        lambda m, x: [h := m.linear(x), setattr(h, "data", h.data * 2), m.norm(h)][-1].sum(),
        lambda m, x: [h := m.linear(x), setattr(h, "data", 2 * x), m.norm(h)][-1].sum(),
        lambda m, x: [m.memory.keep(h := m.linear(x)), m.norm(h).sum() + m.memory(x).sum()][-1],
        lambda m, x: m.norm(checkpoint(m.linear, x, use_reentrant=False) * 2).sum(),
        lambda m, x: m.compiled(m.linear(x)).sum(),
        lambda m, x: [box := x.new_zeros(8, 4), box.__setitem__(0, m.linear(x)[0]), m.norm(box)][-1].sum(),
    ],
)  # fmt: skip
def test_what_is_used_elsewhere_or_changed_between_has_no_sole_consumer(way, needs):
    compiled = torch.compile(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)), backend="eager")
    module, step = watched(
        way, needs, relu=nn.ReLU(inplace=True), other=nn.Linear(4, 4), memory=Memory(), compiled=compiled
    )
    assert step.sole_consumer(module.linear) is not module.norm
    assert any(event.module is module.linear for event in step.events)


@pytest.mark.parametrize("needs", [Need.WIRING, ~Need(0)])
@pytest.mark.parametrize(
    "way",
    [
        lambda m, x: m.norm(m.linear(x)).sum(),
        lambda m, x: m.norm(input=m.linear(input=x)).sum(),
        lambda m, x: sum(m.norm(m.linear(x)).sum() for _ in range(3)),
        lambda m, x: m.norm(m.nothing(m.linear(x))).sum(),
        lambda m, x: [h := m.linear(x), h.shape, h.dim(), len(h), h.dtype, m.norm(h)][-1].sum(),
        lambda m, x: {"loss": m.norm(h := m.linear(x)).sum(), "features": h},
        lambda m, x: [kept := [m.linear(x)], m.norm(kept.pop())][-1].sum(),
        lambda m, x: checkpoint(lambda x: m.norm(m.linear(x)), x, use_reentrant=False).sum(),
        lambda m, x: checkpoint(lambda x: m.norm(m.linear(x)), x.requires_grad_(), use_reentrant=True).sum(),
        lambda m, x: F.mse_loss(m.norm(m.linear(x)), x).backward(),
        lambda m, x: checkpoint(lambda x: m.norm(m.linear(x)), x, use_reentrant=False).sum().backward(),
    ],
)  # fmt: skip
def test_what_goes_there_alone_does(way, needs):
    module, step = watched(way, needs, batch=X.clone(), nothing=nn.Identity())
    assert step.sole_consumer(module.linear) is module.norm
    norm = next(event for event in step.events if event.module is module.norm)
    assert step.producer(norm.inputs[0]).module is module.linear
    assert step.consumers(norm.inputs[0]) == [norm]


def test_under_inference_mode_what_is_changed_in_place_is_another_tensor():
    module = Net(lambda m, x: m.norm(m.relu(m.linear(x))).sum(), relu=nn.ReLU(inplace=True))
    with torch.inference_mode():
        step = observed(module)
    assert step.sole_consumer(module.linear) is module.relu
    assert step.sole_consumer(module.relu) is module.norm


def test_what_a_users_hook_does_with_an_output_is_seen():
    module = Net(lambda m, x: m.norm(m.linear(x)).sum())
    module.linear.register_forward_hook(lambda m, args, output: None if output.abs().mean() else output)
    step = observed(module)
    assert step.sole_consumer(module.linear) is None
    assert {"abs", "mean"} <= set(told(step))


def test_a_module_that_returns_several_tensors_has_no_sole_consumer():
    module, step = watched(lambda m, x: m.norm(m.rnn(x)[0]).sum(), rnn=nn.LSTM(4, 4))
    assert step.sole_consumer(module.rnn) is None
    call = next(event for event in step.events if event.module is module.rnn)
    assert [len(step.consumers(number)) for number in call.outputs] == [1, 0, 0]


class Both(nn.Module):
    def forward(self, x):
        return {"same": x + 1, "nested": (x * 2, [x - 1])}


def test_outputs_are_found_wherever_they_lie():
    module, step = watched(lambda m, x: m.norm(m.both(m.linear(x))["nested"][1][0]).sum(), both=Both())
    call = next(event for event in step.events if event.module is module.both)
    assert len(call.outputs) == 3
    norm = next(event for event in step.events if event.module is module.norm)
    assert step.producer(norm.inputs[0]) is call


# -- what is an event


def test_events_are_in_order_and_named():
    def way(m, x):
        h = m.net(x)
        h = F.gelu(h[:, :2] + 1).view(-1).T
        return F.mse_loss(h, torch.zeros_like(h))

    _, step = watched(way, net=nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert told(step) == ["net.0", "net.1", "getitem", "add", "gelu", "view", "T", "zeros_like", "mse_loss"]
    assert [event.kind for event in step.events[-3:]] == ["function", "loss", "returned"]
    assert step.events[-1].inputs == step.events[-2].outputs
    assert step.events[2].where.startswith("test_record.py:")
    assert step.producer(step.events[0].inputs[0]) is None


def test_functions_inside_of_leaves_and_before_any_module_are_none():
    class Leaf(nn.Module):
        def forward(self, x):
            return F.relu(x + 1) * 2

    _, step = watched(lambda m, x: m.leaf((x * 2).relu()).sum(), leaf=Leaf())
    assert told(step) == ["leaf", "sum"]


def test_functions_inside_of_leaves_where_that_is_asked_for():
    class Rounded(nn.Module):
        def forward(self, x):
            return x + (x.round() - x).detach()

    module, step = watched(lambda m, x: m.leaf(m.linear(x)).sum(), leaf=Rounded())
    assert told(step) == ["linear", "round", "leaf", "sum"]  # what is chosen, without what it was chosen by
    assert step.events[1].inputs == ()
    step = observed(module, Need.WIRING | Need.INSIDE)
    assert told(step) == ["linear", "round", "sub", "detach", "add", "sum"]
    assert all(event.inputs for event in step.events)


def test_attention_and_transformer_layers_are_seen_into_in_training_mode_only():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    x = torch.randn(2, 3, 4)
    _, step = watched(lambda m, x: m.layer(x).sum(), batch=x, layer=layer)
    assert {"layer.self_attn", "layer.linear1", "layer.dropout", "layer.norm2", "relu", "add"} <= set(told(step))
    _, step = watched(lambda m, x: m.layer(x).sum(), batch=x, layer=layer.eval())
    assert told(step) == ["layer", "sum"]


@pytest.mark.parametrize("needs", [Need.WIRING, Need.WIRING | Need.LOSSES, ~Need(0)])
def test_a_layer_put_into_eval_mode_within_the_step_keeps_its_fast_path(monkeypatch, needs):
    original, taken = torch._transformer_encoder_layer_fwd, []
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *a: taken.append(1) or original(*a))

    def way(m, x):
        with torch.no_grad():
            m.layer.eval()(x)
            copy.deepcopy(m.layer)(x)
        return m.layer.train()(x).sum()

    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    _, step = watched(way, needs, torch.randn(2, 3, 4), layer=layer)
    assert len(taken) == 2
    assert told(step)[0] == "layer"
    assert "layer.linear1" in told(step)
    assert not [name for m in layer.modules() for name in ("forward", "_compiled_call_impl") if name in vars(m)]


def test_recomputing_for_backward_is_no_event():
    _, step = watched(lambda m, x: checkpoint(m.linear, x, use_reentrant=False).sum().backward())
    assert told(step) == ["linear", "sum", "backward"]


@pytest.mark.parametrize("how", ["torch.compile", "module.compile"])
def test_a_compiled_module_is_one_event_and_compiled_once(how):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    if how == "torch.compile":
        net = torch.compile(net, backend=backend)
    else:
        net.compile(backend=backend)
    module = Net(lambda m, x: m.net(x).sum(), net=net)
    module.training_step(X)
    before = len(graphs)
    step = observed(module)
    module.training_step(X)
    assert told(step) == ["net", "sum"]
    assert len(graphs) == before


def test_vmap_and_grad_are_one_event_that_takes():
    _, step = watched(lambda m, x: torch.vmap(lambda row: (row * 2).sum())(m.linear(x)).sum())
    (event,) = [event for event in step.events if event.name == "functorch"]
    assert step.producer(event.inputs[0]).name == "linear"


# -- backward, optimisers, gradients


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("backward", [lambda loss: loss.backward(), lambda loss: torch.autograd.backward([loss])])
def test_manual_optimisation_in_order(backward, to_none):
    def way(m, x):
        for _ in range(2):
            m.optimizer.zero_grad(set_to_none=to_none)
            backward(m.linear(x).sum())
            m.optimizer.step()

    module = Net(way)
    module.optimizer = torch.optim.SGD(module.linear.parameters(), lr=0.1)
    step = observed(module)
    events = [event for event in step.events if event.kind not in {"module", "function"}]
    assert [event.kind for event in events] == ["backward", "optimizer step", "zero_grad", "backward", "optimizer step"]
    assert events[1].name == "SGD"
    assert set(events[1].parameters) == set(events[2].parameters) == {"linear.weight", "linear.bias"}
    assert step.producer(events[0].inputs[0]).name == "sum"
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert "wrapped" not in vars(torch.autograd.backward)


def test_automatic_optimisation_is_noted_and_notes_are_ignored_while_the_step_runs():
    module = Net(lambda m, x: [m.probe.note("backward"), m.linear(x).sum()][-1])
    module.probe = probe = Probe.attach(module, "training_step", Need.WIRING | Need.GRADIENTS | Need.UPDATES)
    optimizer = torch.optim.SGD(module.linear.parameters(), lr=0.5)
    loss = module.training_step(X)
    probe.note("zero_grad", optimizer)
    loss.backward()
    probe.note("backward")
    probe.note("optimizer step", optimizer)
    norm = float(module.linear.weight.grad.norm())
    before = float(module.linear.weight.norm())
    optimizer.step()
    step = probe.result()
    kinds = [e.kind for e in step.events]
    assert kinds == ["module", "function", "returned", "zero_grad", "backward", "optimizer step"]
    assert step.gradients["linear.weight"] == pytest.approx(norm)
    assert step.updates["linear.weight"] == pytest.approx((0.5 * norm, before, 0))
    assert step.gradients.keys() == {"linear.weight", "linear.bias"}
    assert probe.result() is step


def test_gradients_that_are_there_have_norms_at_each_backward_and_step():
    def way(m, x):
        for _ in range(2):
            m.linear(x).sum().backward()
            m.optimizer.step()
        m.linear.weight.grad = None

    module = Net(way)
    module.optimizer = torch.optim.SGD(module.linear.parameters(), lr=0.1)
    first, used, begun, added, end = observed(module, Need.WIRING | Need.HELD).held
    assert first == {}
    assert used == begun
    assert added["linear.bias"] == pytest.approx(2 * used["linear.bias"])
    assert end.keys() == {"linear.bias"}


def test_modes_are_those_of_the_call():
    def way(m, x):
        m.norm.eval()
        h = m.norm(m.linear(x))
        m.norm.train()
        return F.dropout(F.dropout(F.dropout(h, 0.1), 0.1, training=False), 0.0)

    step = watched(way)[1]
    assert [event.training for event in step.events[:-1]] == [True, False, True, False, False]


def test_a_batchnorm_that_is_not_listed_is_told_without_a_name():
    hidden = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    _, step = watched(lambda m, x: (hidden(x), m.linear(x)))
    assert [event.name for event in step.events] == ["", "linear"]
    event = step.events[0]
    assert (event.module, event.training, event.where[:15]) == (hidden[1], False, "test_record.py:")


def test_autograd_grad_takes_what_it_differentiates():
    _, step = watched(lambda m, x: torch.autograd.grad(m.linear(x).sum(), m.linear.weight)[0].sum())
    assert told(step) == ["linear", "sum", "grad", "sum"]


# -- numbers


def test_units_that_are_off_are_counted():
    class Units(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.shape, self.relu = shape, nn.ReLU()

        def forward(self, x):
            values = torch.ones(self.shape)
            values[:, 1:] = 0  # all but the first of the second dimension
            return self.relu(values)

    shapes = {"table": (64, 4), "sequence": (64, 4, 3), "image": (16, 4, 3, 3), "few": (8, 4)}
    nets = {name: Units(*shape) for name, shape in shapes.items()}
    _, step = watched(lambda m, x: sum(getattr(m, name)(x).sum() for name in nets), Need.OUTPUTS, **nets)
    off = {name.partition(".")[0]: numbers.off for name, numbers in step.outputs.items()}
    assert off == pytest.approx({"table": 0.75, "sequence": 0.75, "image": 0.75, "few": 0.0})


def test_outputs_are_reduced_when_they_are_put_out():
    def way(m, x):
        h = m.relu(m.linear(x))
        m.relu(h + 1)
        m.ids(x)
        return h.mul_(0).sum() + m.tens(x).sum()

    class Half(nn.Module):
        def forward(self, x):
            return torch.full((4,), 300.0, dtype=torch.float16)

    class Ids(nn.Module):
        def forward(self, x):
            return torch.arange(3)

    module, step = watched(way, Need.OUTPUTS, relu=nn.ReLU(), ids=Ids(), tens=Half())
    assert list(step.outputs) == ["linear", "relu", "tens"]
    h = module.linear(X).relu()
    relu = step.outputs["relu"]
    expected = (h == 0).float().mean(), h.mean(), h.std(correction=0), h.max()
    assert relu[:4] == pytest.approx([float(number) for number in expected])
    assert step.outputs["tens"][:4] == (0, 300, 0, 300)
    assert step.events == []


def test_zeros_are_counted_beside_what_is_not_finite():
    x = torch.tensor([1.0, torch.inf, torch.nan, 0.0])
    _, step = watched(lambda m, x: m.relu(x).sum(), Need.OUTPUTS, x, relu=nn.ReLU())
    assert step.outputs["relu"].zeros == 0.25


def test_sparse_gradients_and_none_have_norms():
    def way(m, x):
        m.optimizer.zero_grad()
        m.embedding(torch.tensor([1, 1])).sum().backward()
        m.optimizer.step()

    module = Net(way, embedding=nn.Embedding(3, 2, sparse=True))
    module.optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    step = observed(module, Need.GRADIENTS | Need.UPDATES)
    assert step.gradients["embedding.weight"] == pytest.approx(8**0.5)
    assert step.gradients["linear.bias"] != step.gradients["linear.bias"], "NaN: no gradient"
    assert step.updates["linear.bias"][0] == 0
    assert step.updates["embedding.weight"][0] == pytest.approx(0.1 * 8**0.5)


# -- needs


def test_a_shared_probe_knows_what_any_of_its_users_needs():
    module = Net(lambda m, x: F.mse_loss(m.norm(m.linear(x)), x))
    first = Probe.attach(module, "training_step", Need.WIRING)
    assert Probe.attach(module, "training_step", Need.LOSSES) is first
    module.training_step(X)
    step = first.result()
    assert told(step) == ["linear", "norm", "mse_loss"]
    assert [call.name for call in step.loss_calls] == ["mse_loss"]
    assert step.net_calls == []


def test_without_inputs_no_argument_is_cloned(monkeypatch):
    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr("lightning_recipe.record.calls.snapshot", refuse)
    step = watched(lambda m, x: F.mse_loss(m.linear(x), x), ~Need.INPUTS)[1]
    assert [call.name for call in step.loss_calls] == ["mse_loss"]


# -- leaving no trace


@pytest.mark.parametrize("needs", [*Need, ~Need(0)])
def test_the_step_computes_what_it_would_and_no_activation_is_kept(needs):
    kept = []

    def way(m, x):
        h = m.drop(m.linear(x))
        kept.append(weakref.ref(h))
        return F.mse_loss(m.norm(h), x)

    def run(needs):
        torch.manual_seed(0)
        module = Net(way, drop=nn.Dropout())
        probe = Probe.attach(module, "training_step", needs) if needs else None
        loss = module.training_step(X)
        loss.backward()
        state = torch.get_rng_state()
        assert not probe or not any("_compiled_call_impl" in vars(m) or m._forward_hooks for m in module.modules())
        return [loss.detach(), *(p.grad for p in module.parameters()), *module.buffers(), state], probe

    bare, _ = run(None)
    seen, probe = run(needs)
    assert all(torch.equal(a, b) for a, b in zip(bare, seen, strict=True))
    gc.collect()
    assert kept[-1]() is None
    probe.result()


@pytest.mark.parametrize("needs", [Need.INPUTS, Need.WIRING, ~Need(0)])
def test_copies_made_within_a_step_carry_nothing_of_ours(needs):
    twins = []

    def way(m, x):
        twins.extend([copy.deepcopy(m.hooked), pickle.loads(pickle.dumps(m.linear)), copied(m)])  # noqa: S301
        return m.hooked(m.linear(x)).sum()

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.linear, self.hooked = nn.Linear(4, 4), nn.Linear(4, 4)

        def training_step(self, batch, _):
            return way(self, batch)

    module = Module()
    module.hooked.register_forward_hook(print_nothing)
    observed(module, needs)
    assert torch.equal(twins[0](X), module.hooked(X))
    assert torch.equal(twins[1](X), module.linear(X))
    assert torch.equal(twins[2].linear(X), module.linear(X))
    for twin in twins:
        for part in twin.modules():
            assert vars(part).get("_compiled_call_impl") is None
            assert not [hook for hook in part._forward_hooks.values() if vars(hook)]
    assert list(module.hooked._forward_hooks.values()) == [print_nothing]


def print_nothing(module, args, output):
    """A hook of the user's."""


@pytest.mark.parametrize("needs", [Need.WIRING, ~Need(0)])
def test_modules_that_raise_are_left_as_they_were(needs):
    def way(m, x):
        with pytest.raises(RuntimeError):
            m.linear(x[:, :1])
        return m.norm(m.linear(x)).sum()

    module, step = watched(way, needs)
    assert step.sole_consumer(module.linear) is None, "one of its calls put nothing out"
    assert told(step) == ["linear", "linear", "norm", "sum"]
    module.way = lambda m, x: m.linear(x[:, :1])
    probe = Probe.attach(module, "training_step", needs)
    backward = torch.autograd.backward
    with pytest.raises(RuntimeError):
        module.training_step(X)
    assert probe.result() is None
    assert torch.autograd.backward is backward
    assert torch.overrides._get_current_function_mode() is None
    assert not _global_optimizer_pre_hooks
    assert not any("_compiled_call_impl" in vars(m) for m in module.modules())


@pytest.mark.parametrize("seen", ["leave", "passed"])
def test_a_failure_of_the_wiring_is_reported_and_harmless(monkeypatch, seen):
    monkeypatch.setattr(f"lightning_recipe.record.wiring.Wiring.{seen}", lambda *a: 1 // 0)
    module = Net(lambda m, x: m.norm(m.linear(input=x)).sum())
    probe = Probe.attach(module, "training_step", Need.WIRING)
    assert module.training_step(X).isfinite()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        probe.result()


# -- clipping, layers that are not the module's, gradients switched off, and the graph


def test_clipping_is_an_event_of_the_parameters_it_is_given():
    def way(m, x):
        m.linear(x).sum().backward()
        nn.utils.clip_grad_norm_(m.linear.parameters(), 1.0)
        nn.utils.clip_grad_value_([m.norm.weight, m.linear.bias], 1.0)
        nn.utils.clip_grad_norm_([], 1.0)

    _, step = watched(way, Need.WIRING | Need.HELD)
    clips = [event for event in step.events if event.kind == "clip"]
    assert [event.parameters for event in clips] == [("linear.weight", "linear.bias", "norm.weight")]
    assert clips[0].where.startswith("test_record.py:")
    assert [set(norms) for norms in step.held] == [set(), *[{"linear.weight", "linear.bias"}] * 2]


def test_layers_that_are_made_in_the_step_are_told():
    def way(m, x):
        m.fresh = nn.Linear(4, 4)
        return m.fresh(x) + m.linear(x) + F.linear(x, m.linear.weight)

    module, step = watched(way)
    ((layer, where),) = step.unlisted
    assert layer is module.fresh
    assert where.startswith("test_record.py:")


def test_what_is_called_without_gradients_tells_where_they_were_switched_off():
    def way(m, x):
        with torch.no_grad():
            h = m.linear(x)
        return m.norm(h)

    _, step = watched(way)
    assert [bool(event.where) for event in step.events[:-1]] == [True, False]


def test_the_graph_ends_in_the_leaves():
    module, step = watched(lambda m, x: m.linear(x).relu().sum(), Need.WIRING | Need.GRAPH)
    assert [node.kind for node in step.graph[:3]] == ["Sum", "Relu", "Addmm"]
    assert {id(node.leaf) for node in step.graph if node.leaf is not None} == set(map(id, module.linear.parameters()))
    assert all(step.graph[below] for node in step.graph for below in node.below)


def test_a_graph_that_nobody_asks_for_is_not_walked():
    _, step = watched(lambda m, x: m.linear(x).relu().clamp(min=0).sum())
    assert (step.graph, step.leaves, step.clips) == ([], [], [])


# -- what a network returned

ONES = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("distribution", "shape"),
    [
        (D.Normal(ONES, ONES), (2, 4, 3)),
        (D.Independent(D.Laplace(ONES, ONES), 1), (2, 4, 3)),
        (D.MultivariateNormal(ONES, torch.eye(4).expand(2, 4, 4)), (2, 4, 3)),
        (D.NegativeBinomial(ONES, ONES / 3), (2, 4, 3)),
        (D.MixtureSameFamily(D.Categorical(torch.ones(2, 4, 3)), D.Normal(*torch.ones(2, 2, 4, 3))), (2, 4, 3)),
        (D.TransformedDistribution(D.Normal(ONES, ONES), [D.AffineTransform(1.0, 2.0)]), (2, 4, 3)),
        (D.Normal(torch.ones(2, 3, 8, 8), 1.0), (2, 3, 8, 8)),
        (D.Normal(ONES[:, :1], 1.0), (2, 1)),
        (D.Categorical(ONES), None),
        (D.Bernoulli(ONES / 2), None),
        (D.StudentT(1.5, ONES, ONES), None),
        (D.Normal(ONES * torch.nan, ONES, validate_args=False), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_distributions_say(distribution, shape):
    """In order, and without drawing, or leaving anything at the distribution."""
    before, state = dict(distribution.__dict__), torch.get_rng_state()
    found = returned((distribution,))
    assert tuple(found["[0]"].shape) == shape if shape else "[0]" not in found
    assert len(found) > 1, "its parameters, too"
    assert torch.equal(state, torch.get_rng_state())
    assert before.keys() == distribution.__dict__.keys()
    assert all(before[name] is value for name, value in distribution.__dict__.items())
    if shape:
        (said,) = without_parameters(found)
        assert said is found["[0]"]
        if len(shape) == 3:
            assert (said.diff(dim=-1) > 0).all()


def test_a_step_that_returns_a_distribution_is_the_same_when_watched():
    class Likely(nn.Linear):
        def forward(self, x):
            return D.Normal(super().forward(x), 1.0)

    def training_step(net, batch):
        return -net.linear(batch).log_prob(batch).mean()

    net = Net(training_step)
    net.linear = Likely(4, 4)
    probe = Probe.attach(net, "training_step", Need.INPUTS | Need.WIRING)
    net.training_step(X).backward()
    watched, step = net.linear.weight.grad.clone(), probe.result()
    net.zero_grad()
    net.training_step(X).backward()
    assert torch.equal(watched, net.linear.weight.grad)
    assert step.net_calls[0].output[""].shape == (8, 4, 3)
