"""Every registered thing is tested because it exists: the suites run over all tables, outside packages included."""

from __future__ import annotations

import pytest
import suite_calibration
import suite_inputs
import suite_learning
import suite_pairs
import suite_tasks
from assembly import pretrained_bases, scratch_bases, styled_bases

from regraft.calibration import CALIBRATORS, SCORES
from regraft.modalities import MODALITIES
from regraft.models import BASES, POOLINGS
from regraft.objectives import OBJECTIVES
from regraft.regularizers import REGULARIZERS
from regraft.tasks import TASKS
from regraft.training import OPTIMIZERS, SCHEDULES
from tunings_here import tunings_here


def named(check):
    return check.__name__.removeprefix("check_")


PAIRED = [name for name in TASKS.names() if TASKS.get(name).paired]
BY_ROW = [name for name in TASKS.names() if name not in PAIRED]


@pytest.mark.parametrize("check", suite_pairs.CHECKS, ids=named)
@pytest.mark.parametrize("name", PAIRED)
def test_paired_tasks(name, check):
    check(name)


@pytest.mark.parametrize("name", PAIRED)
def test_paired_tasks_save_and_load(name, tmp_path):
    suite_pairs.check_save_and_load_are_bit_equal(name, tmp_path)


@pytest.mark.parametrize("check", suite_tasks.CHECKS, ids=named)
@pytest.mark.parametrize("name", BY_ROW)
def test_tasks(name, check):
    check(name)


@pytest.mark.parametrize("name", BY_ROW)
def test_tasks_save_and_load(name, tmp_path):
    suite_tasks.check_save_and_load_are_bit_equal(name, tmp_path)


@pytest.mark.parametrize("check", suite_calibration.CALIBRATOR_CHECKS, ids=named)
@pytest.mark.parametrize("name", CALIBRATORS.names())
def test_calibrators(name, check):
    check(name)


@pytest.mark.parametrize("check", suite_calibration.SCORE_CHECKS, ids=named)
@pytest.mark.parametrize("name", SCORES.names())
def test_scores(name, check):
    check(name)


@pytest.mark.parametrize("check", suite_learning.TUNING_CHECKS, ids=named)
@pytest.mark.parametrize("name", tunings_here())
def test_tunings(name, check):
    check(name)


@pytest.mark.parametrize("check", suite_learning.OBJECTIVE_CHECKS, ids=named)
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_objectives(name, check):
    check(name)


@pytest.mark.parametrize("check", suite_learning.OPTIMIZER_CHECKS, ids=named)
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_optimizers(name, check):
    check(name)


@pytest.mark.parametrize("check", suite_learning.REGULARIZER_CHECKS, ids=named)
@pytest.mark.parametrize("name", REGULARIZERS.names())
def test_regularizers(name, check):
    check(name)


@pytest.mark.parametrize("check", suite_learning.SCHEDULE_CHECKS, ids=named)
@pytest.mark.parametrize("name", SCHEDULES.names())
def test_schedules(name, check):
    check(name)


@pytest.mark.parametrize("check", suite_inputs.MODALITY_CHECKS, ids=named)
@pytest.mark.parametrize("name", MODALITIES.names())
def test_modalities(name, check):
    check(name)


@pytest.mark.parametrize("name", MODALITIES.names())
def test_modalities_save_and_load(name, tmp_path):
    suite_inputs.check_modality_is_the_same_after_save_and_load(name, tmp_path)


@pytest.mark.parametrize("check", suite_inputs.POOLING_CHECKS, ids=named)
@pytest.mark.parametrize("name", POOLINGS.names())
def test_poolings(name, check):
    check(name)


def _marks(name):
    """Windows of half a minute take minutes on one core."""
    heavy = BASES.get(name).modality_name == "audio"
    return [pytest.mark.base, *([pytest.mark.slow] if heavy else [])]


BASES_TO_TEST = [*scratch_bases(), *styled_bases(), *(pytest.param(name, marks=_marks(name)) for name in pretrained_bases())]


@pytest.fixture
def fetched(name):
    """Make sure that a pretrained base is there, or skip with the reason."""
    base = suite_inputs.tiny_base(name)
    if not base.card().fetched:
        pytest.skip(f"the base '{name}' is not fetched: regraft bases {name} --fetch")


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("check", suite_inputs.BASE_CHECKS, ids=named)
@pytest.mark.parametrize("name", BASES_TO_TEST)
def test_bases(name, check):
    check(name)


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("name", BASES_TO_TEST)
def test_bases_save_and_load(name, tmp_path):
    suite_inputs.check_base_is_the_same_after_save_and_load(name, tmp_path)
