"""The benchmark for a GPU runs on a CPU at small sizes."""

import json
import sys

from benchmarks.cost import gpu_plan


def test_every_figure_is_there_and_a_batch_that_does_not_fit_ends_the_sizes(tmp_path, monkeypatch, capsys):
    arguments = ["random:small_cnn", "--attacks", "fgsm", "deepfool", "--batches", "2", "4", "--runs", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu_plan", *arguments, "--out", str(tmp_path)])
    exact = gpu_plan._measured

    def measured(subject, attack, x, *others):
        if len(x) == 4 and type(attack).__name__ == "DeepFool":  # planted
            raise gpu_plan.jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: planted")
        return exact(subject, attack, x, *others)

    monkeypatch.setattr(gpu_plan, "_measured", measured)
    gpu_plan.main()
    (written,) = tmp_path.glob("gpu-plan-*.json")
    found = json.loads(written.read_text())["attacks"]
    fgsm, deepfool = found["fgsm"]["4"], found["deepfool"]
    assert fgsm["fits"] and fgsm["gradients"] == 1 and fgsm["images_per_second"] > 0
    assert 0 < fgsm["compile_seconds"] and fgsm["kb_per_image"] > 0 and fgsm["over_bare"] > 0
    assert deepfool["2"]["fits"] and deepfool["2"]["gradients"] >= 1 and not deepfool["4"]["fits"]
    assert "images/s" in capsys.readouterr().out
