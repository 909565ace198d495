import copy
import inspect
import pickle
from dataclasses import dataclass
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from IPython.core.compilerop import CachingCompiler
from patients import Healthy
from torch import nn
from torchmetrics.classification import BinaryAccuracy

from lightning_recipe.record.copies import MAX_ELEMENTS
from lightning_recipe.record.loss_calls import LOSSES
from lightning_recipe.record.loss_graph import Node
from lightning_recipe.record.probe import Probe
from lightning_recipe.trial.compiled import with_unseen_losses

X, Y = torch.randn(8, 3), torch.arange(8) % 2


class Plain(nn.Module):
    """A module with one step, written by each test."""

    def __init__(self, step=None, **children):
        super().__init__()
        self.step = step
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx=0):
        return self.step(self, batch)


def observe(step, batch=(X, Y), **children):
    children.setdefault("net", nn.Linear(3, 2))
    module = Plain(step, **children)
    probe = Probe.attach(module, "training_step")
    module.training_step(batch, 0)
    return probe.result()


# -- the network


def test_the_outermost_call_is_the_network():
    step = observe(lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    assert [(c.name, list(c.inputs)) for c in step.net_calls] == [("", ["x"])]
    assert torch.equal(step.inputs["x"], X)
    assert step.net_calls[0].output.shape == (8, 2)
    assert step.batch_size == 8


def test_submodules_called_directly_are_the_network_and_what_flows_between_them_is_no_input():
    def step(m, b):
        hidden = m.pool(m.encoder(b[0])).relu()
        return F.mse_loss(m.head(hidden.detach()), m.head(hidden))

    seen = observe(step, encoder=nn.Linear(3, 4), pool=nn.Flatten(), head=nn.Linear(4, 1))
    assert [c.name for c in seen.net_calls] == ["encoder", "head", "head"]
    assert list(seen.inputs) == ["encoder.input"]


def test_nested_inputs_are_named_by_where_they_entered():
    @dataclass
    class Graph:
        nodes: torch.Tensor
        name: str = "g"

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, batch, *, graph, scale=1.0, **rest):
            return self.layer(batch["image"]) + self.layer(graph.nodes) + self.layer(rest["extra"][0])

    def step(m, b):
        return m.net({"image": b, "path": ["a"]}, graph=Graph(b), extra=(b,)).sum()

    assert list(observe(step, X, net=Net()).inputs) == ["net.batch.image", "net.graph.nodes", "net.extra[0]"]


def test_inputs_are_kept_as_they_entered():
    def step(m, b):
        x = b[0].clone()
        loss = m(x).sum()
        x.data.zero_()
        return loss

    assert torch.equal(observe(step).inputs["x"], X)


def test_metrics_and_loss_modules_are_not_the_network():
    def step(m, b):
        logits = m.net(b[0])
        m.metric(logits[:, 0], b[1])
        return m.criterion(logits, b[1])

    seen = observe(step, metric=BinaryAccuracy(), criterion=nn.CrossEntropyLoss())
    assert [c.name for c in seen.net_calls] == ["net"]


def test_activation_checkpointing_does_not_count_calls_twice():
    def step(m, b):
        torch.utils.checkpoint.checkpoint(m.net, b[0], use_reentrant=False).sum().backward()

    seen = observe(step)
    assert [c.name for c in seen.net_calls] == ["net"]
    assert seen.loss is not None


def test_a_copy_that_the_step_makes_is_not_watched_for_ever():
    """Teachers and averages are made in the first step, and live for long; some are saved there."""
    copies = []

    def step(m, b):
        copies.extend([copy.deepcopy(m.net), pickle.loads(pickle.dumps(m.net))])  # noqa: S301
        return F.mse_loss(m.head(m.net(b)), b)

    x = torch.randn(3, 8)
    seen = observe(step, x, net=nn.Linear(8, 8), head=nn.Linear(8, 8))
    assert [c.name for c in seen.net_calls] == ["net", "head"]
    for twin in copies:
        assert twin(x).shape == (3, 8)
        assert not [hook for hook in twin._forward_hooks.values() if vars(hook)], "no hook that knows of the probe"
        pickle.dumps(twin)


def transformer(kind):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    if kind == "attention":
        return nn.MultiheadAttention(8, 2, batch_first=True), lambda net, x: net(x, x, x)[0]
    if kind == "layer":
        return layer, lambda net, x: net(x)
    return nn.TransformerEncoder(layer, 1), lambda net, x: net(x, src_key_padding_mask=torch.arange(5).expand(3, 5) > 2)


@pytest.mark.parametrize(
    ("kind", "fast"),
    [
        ("attention", "_native_multi_head_attention"),
        ("layer", "_transformer_encoder_layer_fwd"),
        ("encoder", "_transformer_encoder_layer_fwd"),
    ],
)
def test_transformers_in_eval_mode_compute_what_they_would(monkeypatch, kind, fast):
    """Torch's fast path is left for hooks and function modes: it rounds differently, and zeroes what is padded."""
    original, taken = getattr(torch, fast), []
    monkeypatch.setattr(torch, fast, lambda *a, **k: taken.append(1) or original(*a, **k))
    net, call = transformer(kind)
    x = torch.randn(3, 5, 8)

    def step(m, b):
        with torch.no_grad():
            outputs.append(call(m.net, b))
            twin = copy.deepcopy(m.net)  # as teachers are, on its own weights
            for parameter in twin.parameters():
                parameter.zero_()
            outputs.append(call(twin, b))
        return F.mse_loss(m.head(outputs[0]), b)

    outputs = []
    seen = observe(step, x, net=net.eval(), head=nn.Linear(8, 8))
    assert len(taken) == 2
    with torch.no_grad():
        assert torch.equal(outputs[0], call(net, x))
    assert not outputs[1].any()
    assert seen.net_calls[0].name == "net"
    assert seen.net_calls[-1].name == "head"
    assert torch.equal(next(iter(seen.inputs.values())), x)
    assert [c.name for c in seen.loss_calls] == ["mse_loss"]
    assert "forward" not in vars(net)


# -- the loss


ARGUMENTS = {
    "cosine_embedding_loss": (X, X + 1, torch.ones(8)),
    "ctc_loss": (torch.randn(9, 8, 5), torch.ones(8, 2).long(), torch.full((8,), 9), torch.full((8,), 2)),
    "gaussian_nll_loss": (X, X + 1, torch.ones(8, 3)),
    "linear_cross_entropy": (X, torch.randn(2, 3), Y),
    "margin_ranking_loss": (X, X + 1, torch.ones(8, 3)),
    "multilabel_margin_loss": (X, torch.tensor([[0, -1, -1]] * 8)),
    "triplet_margin_loss": (X, X + 1, X - 1),
    "triplet_margin_with_distance_loss": (X, X + 1, X - 1),
}
CLASS_TARGETS = {"cross_entropy", "nll_loss", "multi_margin_loss"}


@pytest.mark.parametrize("name", sorted(LOSSES.values()))
def test_every_loss_function_is_seen(name):
    arguments = ARGUMENTS.get(name) or (X, Y if name in CLASS_TARGETS else torch.rand(8, 3))
    function = getattr(F, name)

    def step(m, b):
        first = m.scale.sigmoid() * arguments[0] if name == "binary_cross_entropy" else m.scale * arguments[0]
        return function(first.sigmoid() if name == "binary_cross_entropy" else first, *arguments[1:])

    module = Plain(step)
    module.scale = nn.Parameter(torch.ones(()))
    probe = Probe.attach(module, "training_step")
    loss = module.training_step((X, Y))
    (call,) = probe.result().loss_calls
    assert call.name == name
    assert torch.equal(call.value, loss.detach())
    assert torch.allclose(call.function(**call.arguments), loss)
    assert call.where.startswith("test_probe.py:")


def test_a_loss_in_a_cell_of_a_notebook_is_found_by_the_number_of_the_cell(monkeypatch):
    compiler = CachingCompiler()
    source = "def step(m, b):\n    return F.cross_entropy(m.net(b[0]), b[1])"
    exec(compiler(source, compiler.cache(source, 7), "exec"), cell := {"F": F})  # noqa: S102 - what notebooks do
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(compile=compiler))
    assert observe(cell["step"]).loss_calls[0].where == "In[7], line 2"
    with torch.autograd.set_detect_anomaly(mode=True):
        assert Node(cell["step"](Plain(net=nn.Linear(X.shape[1], 3)), (X, Y)).grad_fn).where == "In[7], line 2"


def test_all_losses_of_torch_are_known():
    names = {n for n in dir(F) if n.endswith(("_loss", "cross_entropy", "kl_div", "with_logits")) and n[0] != "_"}
    assert names == set(LOSSES.values())


@pytest.mark.parametrize(
    "module", [m for m in vars(nn.modules.loss).values() if inspect.isclass(m) and m.__name__ in {"MSELoss", "L1Loss"}]
)
def test_loss_modules_are_seen(module):
    (call,) = observe(lambda m, b: m.criterion(m(b[0])[:, 0], b[1].float()), criterion=module()).loss_calls
    assert call.name == {"MSELoss": "mse_loss", "L1Loss": "l1_loss"}[module.__name__]


def test_several_losses_each_with_its_options():
    def step(m, b):
        out = m(b[0])
        return F.cross_entropy(out, b[1], label_smoothing=0.1) + 0.5 * F.mse_loss(out[:, 0], b[1].float())

    first, second = observe(step).loss_calls
    assert (first.name, first.arguments["label_smoothing"]) == ("cross_entropy", 0.1)
    assert (second.name, second.arguments["reduction"]) == ("mse_loss", "mean")


def test_a_loss_in_a_loop_is_one_call():
    def step(m, b):
        return sum(F.mse_loss(m(b[0])[:, 0], b[1].float()) for _ in range(5))

    (call,) = observe(step).loss_calls
    assert call.times == 5


def test_the_same_helper_called_from_two_places_is_two_calls():
    def helper(a, b):
        return F.mse_loss(a, b)

    def step(m, b):
        out = m(b[0])
        return helper(out[:, 0], b[1].float()) + helper(out[:, 1], 2.0 * b[1])

    assert [call.arguments["target"].max().item() for call in observe(step).loss_calls] == [1.0, 2.0]


def test_what_is_only_logged_is_no_part_of_the_loss():
    def step(m, b):
        out = m(b[0])
        F.l1_loss(out[:, 0], b[1].float())
        with torch.no_grad():
            F.mse_loss(out[:, 0], b[1].float())
        return {"loss": F.cross_entropy(out, b[1]), "out": out}

    assert [call.name for call in observe(step).loss_calls] == ["cross_entropy"]


def test_manual_backward_ends_in_the_loss():
    def step(m, b):
        loss = F.cross_entropy(m(b[0]), b[1])
        (3 * loss).backward()

    seen = observe(step)
    assert [call.name for call in seen.loss_calls] == ["cross_entropy"]
    assert torch.isclose(seen.loss, 3 * seen.loss_calls[0].value)


def test_a_loss_by_hand_is_known_by_its_value():
    seen = observe(lambda m, b: m(b[0]).square().mean())
    assert seen.loss_calls == []
    assert seen.loss > 0


def test_a_target_that_the_network_computed_is_told_apart():
    def step(m, b):
        teacher = F.normalize(m.net(b[0]).detach())
        return F.mse_loss(m.net(b[0]), teacher) + F.mse_loss(m.net(b[0])[:, 0], b[1] / 2)

    assert [call.target_from_net for call in observe(step).loss_calls] == [True, False]


def test_a_target_that_only_passed_through_the_network_or_has_its_shape_is_none_of_its_own():
    class HandsOn(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, y):
            return self.layer(x), y.view(-1)

    def step(m, b):
        logits, y = m.net(*b)
        return F.cross_entropy(logits, y) + F.mse_loss(logits, torch.ones_like(logits))

    assert [call.target_from_net for call in observe(step, net=HandsOn()).loss_calls] == [False, False]


def test_what_takes_the_place_of_an_argument_in_memory_is_computed_by_the_network():
    class Replaces(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, box):
            self.place = box[0].data_ptr()
            box.clear()
            return [torch.zeros(16, dtype=torch.long) for _ in range(100)]

    def step(m, b):
        made = m.net([torch.ones(16, dtype=torch.long)])
        there = [y for y in made if y.data_ptr() == m.net.place]
        return F.cross_entropy(m.net.layer(torch.zeros(16, 3)), (there or made)[0])

    assert observe(step, net=Replaces()).loss_calls[0].target_from_net


@pytest.mark.parametrize(
    "shaped",
    [
        lambda y, p: y.view_as(p),
        lambda y, p: y[:1].expand_as(p),
        lambda y, p: y.reshape_as(p),
        lambda y, p: y.to(p),
        lambda y, p: y.double().type_as(p),
        lambda y, p: torch.broadcast_tensors(p, y)[1],
    ],
)
def test_a_target_with_the_shape_of_the_prediction_is_none_of_the_network(shaped):
    seen = observe(lambda m, b: F.mse_loss(p := m.net(b[0])[:, 0], shaped(b[1].float(), p)))
    assert [call.target_from_net for call in seen.loss_calls] == [False]


def test_a_target_that_the_prediction_was_written_into_is_of_the_network():
    seen = observe(lambda m, b: F.mse_loss(p := m.net(b[0])[:, 0], b[1].float().mul_(p.detach())))
    assert [call.target_from_net for call in seen.loss_calls] == [True]


def test_prediction_and_target_may_be_interchanged():
    def step(m, b):
        return F.huber_loss(b[1].float(), m.net(b[0])[:, 0], delta=0.5)

    (call,) = observe(step).loss_calls
    assert not call.target_from_net
    assert not call.arguments["target"].unique().frac().any()
    assert torch.isclose(call.function(**call.arguments), call.value)


def test_memory_is_bounded_and_examples_stay_together():
    x = torch.randn(64, 2**15)
    y = torch.arange(64) % 2
    module = Plain(lambda m, b: F.mse_loss(m.scale * b[0], b[0] + 1))
    module.scale = nn.Parameter(torch.ones(()))
    probe = Probe.attach(module, "training_step")
    module.training_step((x, y))
    (call,) = probe.result().loss_calls
    assert call.examples == 64
    assert call.arguments["input"].shape == call.arguments["target"].shape == (MAX_ELEMENTS // 2**15, 2**15)
    assert torch.equal(call.arguments["target"], x[:32] + 1)


# -- precision and compilation


def test_autocast():
    def step(m, b):
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(m(b[0]), b[1])

    seen = observe(step)
    assert seen.net_calls[0].output.dtype == torch.bfloat16
    assert [call.name for call in seen.loss_calls] == ["cross_entropy"]


def written_by_the_user(logits, y):
    return F.cross_entropy(logits, y)


@pytest.mark.parametrize("how", ["torch.compile", "module.compile", "loss", "criterion"])
def test_compiled_code_runs_as_it_would(how):
    """The network is compiled once, probed or not, and computes the same numbers."""

    def run(*, probed):
        torch._dynamo.reset()
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        torch.manual_seed(0)
        module = Plain(net=nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), criterion=nn.CrossEntropyLoss())
        loss = F.cross_entropy
        if how == "torch.compile":
            module.net = torch.compile(module.net, backend=backend)
        elif how == "module.compile":
            module.net.compile(backend=backend)
        elif how == "loss":
            loss = torch.compile(written_by_the_user, backend=backend)
        else:
            loss = module.criterion = torch.compile(module.criterion, backend=backend)
        module.step = lambda m, b: loss(m.net(b[0]), b[1])
        probe = Probe.attach(module, "training_step") if probed else None
        losses = [module.training_step((X, Y)).item() for _ in range(3)]
        return losses, len(graphs), probe and probe.result()

    bare, bare_graphs, _ = run(probed=False)
    losses, graphs, seen = run(probed=True)
    assert losses == bare
    assert [call.name for call in seen.loss_calls] == ["cross_entropy"]
    assert [call.name for call in seen.net_calls] == ["net"]
    assert list(seen.inputs) == ["net.input"]
    if how in {"torch.compile", "module.compile"}:
        assert graphs == bare_graphs


@pytest.mark.parametrize("how", ["torch.compile", "module.compile"])
def test_losses_inside_a_compiled_network_are_seen_without_compiling_twice(how):
    class WithLoss(nn.Module):  # as the models of transformers
        def __init__(self):
            super().__init__()
            self.layer, self.dropout = nn.Linear(3, 2), nn.Dropout()

        def forward(self, x, labels):
            return F.cross_entropy(self.dropout(self.layer(x)), labels, label_smoothing=0.1)

    def run(*, probed):
        torch._dynamo.reset()
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        torch.manual_seed(0)
        net = WithLoss()
        if how == "torch.compile":
            net = torch.compile(net, backend=backend)
        else:
            net.compile(backend=backend)
        module = Plain(lambda m, b: m.net(b[0], labels=b[1]), net=net)
        probe = Probe.attach(module, "training_step", complete=with_unseen_losses) if probed else None
        return [module.training_step((X, Y)).item() for _ in range(3)], len(graphs), probe and probe.result()

    bare, bare_graphs, _ = run(probed=False)
    losses, graphs, seen = run(probed=True)
    assert (losses, graphs) == (bare, bare_graphs)
    (call,) = seen.loss_calls
    assert call.arguments["label_smoothing"] == 0.1
    assert torch.equal(call.arguments["target"], Y)


def test_scripted_modules_take_no_hooks_and_do_no_harm():
    seen = observe(lambda m, b: F.cross_entropy(m.head(m.net(b[0])), b[1]), net=torch.jit.script(nn.Linear(3, 4)),
                   head=nn.Linear(4, 2))  # fmt: skip
    assert [c.name for c in seen.net_calls] == ["head"]
    assert [c.name for c in seen.loss_calls] == ["cross_entropy"]


# -- leaving no trace


def test_the_module_is_as_before():
    module = Healthy()
    before = copy.copy(module.__dict__)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]
    probe = Probe.attach(module, "training_step")
    assert Probe.attach(module, "training_step") is probe
    module.log = lambda *a, **k: None
    module.training_step(next(iter(module.train_dataloader())), 0)
    del module.__dict__["log"]
    assert module.__dict__.keys() == before.keys()
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()] == hooks
    assert torch.overrides._get_current_function_mode() is None


def test_a_step_that_raises_leaves_no_trace():
    module = Plain(lambda m, b: m(b[0]) @ b[1], net=nn.Linear(3, 2))
    probe = Probe.attach(module, "training_step")
    with pytest.raises(RuntimeError):
        module.training_step((X, Y))
    assert "training_step" not in module.__dict__
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert torch.overrides._get_current_function_mode() is None
    assert probe.result() is None


def test_a_step_without_batch_idx_keeps_its_signature():
    class NoIndex(L.LightningModule):
        def training_step(self, batch):
            return batch.sum()

    module = NoIndex()
    Probe.attach(module, "training_step")
    assert list(inspect.signature(module.training_step).parameters) == ["batch"]


def test_a_failed_observation_is_reported_and_harmless(monkeypatch):
    monkeypatch.setattr("lightning_recipe.record.loss_calls.caller", lambda: 1 // 0)
    module = Plain(lambda m, b: F.cross_entropy(m(b[0]), b[1]), net=nn.Linear(3, 2))
    probe = Probe.attach(module, "training_step")
    assert module.training_step((X, Y)).isfinite()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        probe.result()


def test_a_copy_that_would_run_the_users_hook_is_not_run():
    """The losses of a compiled network are looked for on a copy, which shares the hook."""

    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, labels):
            return F.cross_entropy(self.layer(x), labels)

    class Module(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def training_step(self, batch):
            return self.net(*batch)

    seen = []
    net = WithLoss()
    net.layer.register_forward_hook(lambda *values: seen.append(values))
    module = Module(torch.compile(net, backend="eager"))
    probe = Probe.attach(module, "training_step", complete=with_unseen_losses)
    module.training_step((X, Y))
    assert probe.result().loss_calls == []
    assert len(seen) == 1


def test_what_a_step_puts_into_its_batch_is_not_the_batch():
    class Puts(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 3)

        def training_step(self, batch, batch_idx):
            batch["x"] = self.net(batch["x"])
            return batch["x"].sum()

    module, x = Puts(), torch.ones(4, 2)
    probe = Probe.attach(module, "training_step")
    module.training_step({"x": x}, 0)
    assert probe.result().batch["x"] is x
