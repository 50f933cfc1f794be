"""When a training saves in the middle of an epoch."""

import torch

from raymlops.specs.training import TrainingSpec
from raymlops.training.loop import Team
from raymlops.training.saving import Saving

CPU = torch.device("cpu")


def test_a_notice_is_heeded_once() -> None:
    saving = Saving(TrainingSpec(), CPU, Team())
    assert not saving()
    saving._notice.set()
    assert sum(saving() for _ in range(1000)) == 1


def test_a_long_epoch_is_saved_in_between_and_a_short_one_is_not() -> None:
    assert Saving(TrainingSpec(checkpoint_minutes=1e-9), CPU, Team())()
    assert not any(Saving(TrainingSpec(), CPU, Team())() for _ in range(10))


def test_an_elastic_training_saves_as_often_as_it_may_be_resized() -> None:
    elastic = TrainingSpec(workers=4, min_workers=1, resize_s=1e-9)
    assert Saving(elastic, CPU, Team())()
    assert not Saving(TrainingSpec(workers=4, resize_s=1e-9), CPU, Team())()
