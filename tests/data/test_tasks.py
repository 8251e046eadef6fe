import subprocess
import sys

import pytest

from bebert_ray.data.tasks import CUSTOM, TASKS, task_name
from bebert_ray.errors import UserError

GLUE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


def test_nine_glue_tasks_and_the_demo():
    assert list(TASKS) == [*GLUE, "demo"]
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("cola", ("matthews",)),
        ("mrpc", ("accuracy", "f1")),
        ("qqp", ("accuracy", "f1")),
        ("stsb", ("pearson", "spearman")),
        *((name, ("accuracy",)) for name in ("sst2", "mnli", "qnli", "rte", "wnli", "demo")),
    ],
)
def test_official_metrics(name, metrics):
    assert TASKS[name].metrics == metrics


def test_label_counts():
    assert TASKS["mnli"].num_labels == 3
    assert TASKS["stsb"].num_labels == 1
    assert [name for name in TASKS if TASKS[name].is_regression] == ["stsb"]
    assert TASKS["mnli"].dev_splits == ("dev_matched", "dev_mismatched")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SST-2", "sst2"),
        ("sst_2", "sst2"),
        (" STS-B ", "stsb"),
        ("MRPC", "mrpc"),
        ("Custom", CUSTOM),
    ],
)
def test_names_are_normalised(text, name):
    assert task_name(text) == name


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="'MPRC'; did you mean 'mrpc'"):
        task_name("MPRC")
    with pytest.raises(UserError, match="The tasks are: cola, sst2"):
        task_name("squad")


def test_importing_the_sources_is_light():
    heavy = "{'ray', 'torch', 'transformers', 'datasets', 'sklearn', 'pyarrow'}"
    code = f"import sys, bebert_ray.data.sources; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
