"""Training steps are heard, and nothing of that stays."""

from functools import partial

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_recipe.overheard import Overheard


class Hears(Callback):
    """Hears all steps of a fit, and stops at one of them."""

    def __init__(self, ends_at=None, *, wrap=False):
        self.heard, self.batches, self.ends_at, self.wrap = [], [], ends_at, wrap

    def on_train_start(self, trainer, pl_module):
        self.overheard = Overheard(trainer, lambda outputs, batch: self.heard.append((outputs, batch)))
        if self.wrap:
            trainer.strategy.training_step = partial(trainer.strategy.training_step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)
        if batch_idx == self.ends_at:
            self.overheard.put_back()


def run(module, callback, **settings):
    trainer = L.Trainer(max_steps=4, callbacks=[callback], barebones=True, **settings)
    trainer.fit(module)
    return trainer


def test_what_the_step_returned_is_heard_before_its_backward():
    class Module(BoringModel):
        def on_before_backward(self, loss):
            before.append(len(hears.heard))

    before, hears = [], Hears()
    run(Module(), hears)
    assert before == [1, 2, 3, 4]
    assert all(outputs["loss"].requires_grad for outputs, _ in hears.heard)
    assert all(batch is seen for (_, batch), seen in zip(hears.heard, hears.batches, strict=True))


def test_each_closure_of_a_batch_is_heard():
    class Module(BoringModel):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=3)

    hears = Hears()
    run(Module(), hears)
    assert len(hears.heard) > len(hears.batches)


def test_a_step_that_draws_its_batch_itself():
    class Module(BoringModel):
        def training_step(self, dataloader_iter):
            batch, batch_idx, _ = next(dataloader_iter)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            pass

    hears = Hears()
    run(Module(), hears, limit_val_batches=0)
    assert [batch.shape for _, batch in hears.heard] == [(1, 32)] * 4
    assert all(batch is seen for (_, batch), seen in zip(hears.heard, hears.batches, strict=True))


@pytest.mark.parametrize("wrap", [False, True])
def test_after_it_was_put_back_nothing_is_heard(wrap):
    hears = Hears(ends_at=1, wrap=wrap)
    trainer = run(BoringModel(), hears)
    assert (len(hears.heard), len(hears.batches)) == (2, 4)
    assert ("training_step" in vars(trainer.strategy)) is wrap
