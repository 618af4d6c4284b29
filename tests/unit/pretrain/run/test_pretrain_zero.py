"""The settings that DeepSpeed is given."""

import pytest

from pretrain.config import RunSettings
from pretrain.training.zero import LARGEST_BUCKET, deepspeed_settings


@pytest.mark.parametrize(("trained", "bucket"), [(13_500_000, 13_500_000), (3 * LARGEST_BUCKET, LARGEST_BUCKET)])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_bucket_for_gradients_is_no_larger_than_they_are(stage, trained, bucket):
    settings = RunSettings(corpus="none", storage="none", name="zero", zero={"stage": stage})
    assert deepspeed_settings(settings, trained)["zero_optimization"] == {
        "stage": stage,
        "reduce_bucket_size": bucket,
    }
