"""What has nothing to do at a step is not entered: entering a hook takes longer than an empty one does."""

from collections import Counter

import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.profilers import Profiler

from lightning_recipe import BatchMixingDetector, InitLossCheck, OverfitOneBatch, VisualizeInputs, recipe


class Entered(Profiler):
    """Counts the hooks of callbacks that Lightning enters."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def start(self, action_name):
        self.counts[action_name] += 1

    def stop(self, action_name):
        pass

    def of(self, callback, hook):
        return self.counts[f"[Callback]{callback.state_key}.{hook}"]


def test_only_hooks_with_something_to_do_are_entered(fit):
    profiler, callbacks = Entered(), recipe()
    fit(BoringModel(), callbacks, profiler=profiler, max_epochs=2, limit_train_batches=64, limit_val_batches=2)
    for callback in callbacks:
        assert profiler.of(callback, "on_before_backward") <= 4, "two steps in each epoch at most"
        starts, ends = (profiler.of(callback, f"on_train_batch_{when}") for when in ("start", "end"))
        if isinstance(callback, InitLossCheck | OverfitOneBatch | BatchMixingDetector):
            assert (starts, ends) in {(1, 0), (1, 1)}
        elif isinstance(callback, VisualizeInputs):
            assert 2 <= starts <= 4  # two in an epoch that there is time for: to watch, and to see that it is over
            assert 1 <= ends <= 2
        else:
            assert 8 < starts < 20  # the looks
            assert ends == 128


def test_hooks_of_a_subclass_are_always_entered(fit):
    class Mine(InitLossCheck):
        ends = backwards = 0

        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            self.ends += 1

        def on_after_backward(self, *args):
            super().on_after_backward(*args)
            self.backwards += 1

    check = Mine()
    fit(BoringModel(), [check], max_steps=5)
    assert (check.ends, check.backwards) == (5, 5)


def test_a_group_that_enters_them_itself_still_can(fit):
    class Group(Callback):
        def __init__(self, *members):
            self.members = members

        def __getattribute__(self, name):
            if not name.startswith("on_") and name != "setup":
                return super().__getattribute__(name)
            return lambda *args, **kwargs: [getattr(member, name)(*args, **kwargs) for member in self.members]

    check = InitLossCheck()
    fit(BoringModel(), [Group(check)], max_steps=3)
    assert len(check.findings) == 1


@pytest.mark.parametrize("kind", [InitLossCheck, OverfitOneBatch, BatchMixingDetector, VisualizeInputs])
def test_rest_ends_with_the_next_fit(fit, kind):
    callback = kind()
    for _ in range(2):
        fit(BoringModel(), [callback], max_steps=3)
        assert callback.on_train_batch_start is None
        assert len(callback.findings) == 1
