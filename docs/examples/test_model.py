"""Fails a pull request after which the model trains on, only worse."""

import pytest
from lightning.pytorch import LightningModule, Trainer

from lightning_recipe import BatchMixingDetector, findings, recipe
from lightning_recipe.demo import DigitsNet, loaders


@pytest.fixture
def model() -> LightningModule:
    """Your model; and your loaders below."""
    return DigitsNet()


def test_examples_do_not_mix(model):
    detector = BatchMixingDetector(max_seconds=60, strict=True)
    trainer = Trainer(callbacks=[detector], max_steps=1, barebones=True)
    trainer.fit(model, *loaders())
    finding = detector.findings[0]
    assert finding.status == "passed", finding.message


def test_nothing_in_the_recipe_fails(model, tmp_path):
    trainer = Trainer(
        callbacks=recipe(strict=True),
        max_steps=3,
        logger=False,
        default_root_dir=tmp_path,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, *loaders())
    assert not [finding for finding in findings(trainer) if finding.status == "failed"]
