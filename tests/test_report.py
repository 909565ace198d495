import json

import pytest
import rich.console
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from patients import Healthy, InitTooLarge

from lightning_recipe import Finding, InitLossCheck, Section, Status, reporter
from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.picture import Picture
from lightning_recipe.show import report, terminal


def finding(status=Status.FAILED, **changes):
    values = {
        "check": "A",
        "message": "5, not 2",
        "evidence": {"x": 1.0},
        "why": "because",
        "fix": "make it 2",
        "code": "A/five",
    }
    return Finding(status=status, **{**values, **changes})


@pytest.mark.parametrize("value", [0.0, -1.5, float("inf"), float("-inf")])
def test_findings_survive_json(value):
    original = finding(evidence={"value": value}, section=Section.DATA, step=7)
    text = report.to_json([original])
    content = json.loads(text, parse_constant=pytest.fail)
    assert content["version"] == report.SCHEMA_VERSION
    assert Finding.from_dict(content["findings"][0]) == original


def test_nan_survives_json():
    (restored,) = json.loads(report.to_json([finding(evidence={"value": float("nan")})]))["findings"]
    assert Finding.from_dict(restored).evidence["value"] != Finding.from_dict(restored).evidence["value"]


def test_why_and_fix_only_when_something_is_wrong():
    expected = {Status.FAILED: 4, Status.WARNING: 4, Status.ADVICE: 1, Status.PASSED: 1, Status.SKIPPED: 1}
    assert {status: len(terminal.in_a_log(finding(status))) for status in Status} == expected


@pytest.mark.parametrize("status", Status)
def test_on_a_screen_what_is_well_takes_one_line(status):
    console = rich.console.Console(width=80, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(terminal.on_a_screen(finding(status, message="word " * 40)))
    first, *rest = captured.get().splitlines()
    assert first.startswith(f"{status.value:8} A: word word")
    assert max(map(len, [first, *rest])) <= 80
    if status not in {Status.FAILED, Status.WARNING}:
        assert first.endswith("…")
        assert not rest
    else:
        assert captured.get().count("word") == 40
        assert all(line.startswith(" " * 9) for line in rest)
        assert [line.split()[0] for line in rest[-3:]] == ["why:", "fix:", "key:"]


def test_a_log_holds_what_was_said(capsys):
    """Square brackets are markup to rich."""
    terminal._print(rich.console.Console(), terminal.in_a_log(finding(message="[B, T] of [bold]")))
    assert "[B, T] of [bold]" in capsys.readouterr().out


def test_markdown_is_a_table_whatever_a_message_holds():
    text = report.markdown([finding(Status.PASSED), finding(message="a | b\n<script>")])
    summary, _, header, _, first, second = text.splitlines()
    assert summary == "**1 failed, 1 passed**"
    assert header.count("|") == 4
    assert first.startswith("| **failed** |")  # what failed comes first
    assert "<script>" not in first
    assert second.startswith("| passed |")


def test_an_unfinished_write_leaves_the_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "recipe.json"
    report.write_json([finding()], path)
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.write_json([finding(), finding()], path)
    assert len(json.loads(path.read_text())["findings"]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"]


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar, None])
def test_each_finding_is_printed_once_and_the_table_ends_the_run(fit, capsys, bar):
    callbacks = [InitLossCheck(), *([bar()] if bar else [])]
    fit(InitTooLarge(), callbacks, enable_progress_bar=bar is not None)
    printed = capsys.readouterr().out
    assert printed.count("InitLossCheck: cross_entropy") == 1
    assert printed.count("why: ") == 1
    end = printed[printed.index("lightning_recipe: 1 failed") :].rstrip()
    assert end.count("InitLossCheck") == 1
    command, link, _ = end.splitlines()[-3:]
    assert "tensorboard --logdir" in command
    assert command.endswith("--samples_per_plugin images=100")  # on one line, to be copied
    assert "http://localhost:6006/#text" in link


def test_the_table_ends_a_run_that_fails(fit, capsys):
    class Broken(Healthy):
        def on_train_epoch_end(self):
            msg = "mine"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="mine"):
        fit(Broken(), [InitLossCheck()])
    assert "tensorboard --logdir" in capsys.readouterr().out


def test_the_text_card_is_the_table(fit, events):
    check = InitLossCheck()
    written = events(fit(Healthy(), [check]))
    assert written.Tensors("0 report/text_summary")[-1].tensor_proto.string_val[0].decode() == report.markdown(
        check.findings
    )
    card = written.Tensors("2.04 InitLossCheck/findings/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert f"| {check.findings[0].evidence['measured']:.4g} |" in card


def test_in_tensorboard_a_table_keeps_its_columns():
    """TensorBoard breaks words where a row of long cells is wider than the card."""
    cells = report.markdown([finding(message="many words " * 50, fix="do this " * 50)]).splitlines()[-1].split("<br>")
    assert max(map(len, cells)) < report.LINE + 30


def test_only_rank_zero_reports(fit, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("lightning.pytorch.Trainer.is_global_zero", False)
    check = InitLossCheck()
    fit(Healthy(), [check])
    assert [f.status for f in check.findings] == [Status.PASSED]
    assert "InitLossCheck" not in capsys.readouterr().out
    assert not list(tmp_path.rglob("recipe.json"))


def test_steps_are_those_of_lightnings_loggers(fit, events, monkeypatch):
    monkeypatch.setattr(reporter, "SECONDS", 0.0)

    class Late(InitLossCheck):
        every_n_steps = 3

        def sampled_step(self, run, step):
            yield self.passed("now", code=f"at_{run.step}")
            self.draw(run, "epoch", pixels(Picture(f"{run.trainer.current_epoch}")))

    callback = Late()
    written = events(fit(Healthy(), [callback], accumulate_grad_batches=2))
    assert [f.step for f in callback.findings] == [0, 1, 2, 3, 6]
    assert [e.step for e in written.Images("2.04 Late/epoch")] == [1, 2, 3, 6]
    assert [e.step for e in written.Tensors("2.04 Late/findings/text_summary")] == [0, 1, 2, 3, 6]
    assert torch.tensor([e.step for e in written.Scalars("epoch")]).max() >= 7
