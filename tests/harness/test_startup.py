"""A command begins and ends quickly, and the collector works in between."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(program: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_what_is_imported_is_not_collected_and_what_comes_later_is():
    done = python(
        "import gc, weakref\n"
        "from harness.startup import importing\n"
        "with importing():\n"
        "    assert not gc.isenabled()\n"
        "    import json\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 1000\n"
        "class Cycle: pass\n"
        "cycle = Cycle(); cycle.itself = cycle; found = weakref.ref(cycle); del cycle\n"
        "gc.collect()\n"
        "assert found() is None"
    )
    assert done.returncode == 0, done.stderr


def test_the_collector_is_back_after_an_import_that_failed():
    done = python(
        "import gc\n"
        "from harness.startup import importing\n"
        "try:\n"
        "    with importing():\n"
        "        import there_is_no_such_module\n"
        "except ImportError:\n"
        "    assert gc.isenabled()\n"
        "else:\n"
        "    raise AssertionError"
    )
    assert done.returncode == 0, done.stderr


def test_a_process_that_has_torch_keeps_what_it_collects():
    done = python(
        "import gc, sys, types\n"
        "from harness.startup import importing\n"
        "sys.modules['torch'] = types.ModuleType('torch')\n"
        "with importing():\n"
        "    assert gc.isenabled()\n"
        "assert gc.get_freeze_count() == 0"
    )
    assert done.returncode == 0, done.stderr


def test_leaving_says_the_code_and_does_what_was_to_be_done_at_the_end():
    done = python(
        "import atexit\n"
        "from harness.startup import leave\n"
        "atexit.register(print, 'closed')\n"
        "print('out')\n"
        "leave(5)"
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (5, "out\nclosed\n")


def test_scores_need_nothing_that_draws_nor_the_whole_of_scipy():
    done = python(
        "import sys\n"
        "import reports.tables\n"
        "slow = {'matplotlib', 'jinja2', 'pandas', 'scipy.stats', 'torch', 'transformers'}\n"
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys()"
    )
    assert done.returncode == 0, done.stderr
