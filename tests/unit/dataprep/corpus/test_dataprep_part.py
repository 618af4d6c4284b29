"""Parts of a corpus: nested studies, and the same validation profiles under the same row ids."""

from pathlib import Path

import numpy as np
import pytest
from made_corpora import make_corpus

from dataprep.corpus import Corpus, read_split
from dataprep.corpus.part import nested_studies, write_part
from dataprep.corpus.verification import verify
from dataprep.runtime.storage import Folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(str(tmp_path_factory.mktemp("part") / "corpus"), rows_per_shard=30)


def test_smaller_fractions_lie_within_larger_ones_and_hold_about_so_many_profiles(corpus: Corpus) -> None:
    # five train studies of 20 profiles
    chosen = nested_studies(corpus, [0.05, 0.4, 1.0], seed=0)
    assert [len(chosen[fraction]) for fraction in (0.05, 0.4, 1.0)] == [1, 2, 5]
    assert set(chosen[0.05]) < set(chosen[0.4]) < set(chosen[1.0])
    assert all(study.startswith("train-") for study in chosen[1.0])
    assert nested_studies(corpus, [0.4], seed=0)[0.4] == chosen[0.4]
    assert {nested_studies(corpus, [0.05], seed)[0.05][0] for seed in range(20)} > {chosen[0.05][0]}


def test_a_part_has_its_studies_and_the_validation_profiles_of_every_other_part(corpus: Corpus, tmp_path: Path) -> None:
    small = write_part(corpus, Folder(str(tmp_path / "small")), ["train-1"])
    large = write_part(corpus, Folder(str(tmp_path / "large")), ["train-0", "train-1", "train-3"])
    for part in (small, large):
        verify(part)
        row_ids, expression = read_split(part, "validation")
        assert np.array_equal(row_ids, np.arange(20))
        np.testing.assert_array_equal(expression, read_split(corpus, "validation")[1])
        assert part.rows("test") == 0
        assert part.graph().fingerprint == corpus.graph().fingerprint
    assert (small.rows("train"), large.rows("train")) == (20, 60)
    samples = corpus.samples().to_pandas()
    own = samples[(samples["split"] == "train") & (samples["study_id"] == "train-1")]
    _, everything = read_split(corpus, "train")
    row_ids, expression = read_split(small, "train")
    np.testing.assert_array_equal(expression, everything[own["row_id"]])
    kept = small.samples().to_pandas().set_index("row_id").loc[row_ids]
    assert kept["sample_id"].tolist() == own["sample_id"].tolist()
    assert small.manifest.settings["part_of"] == corpus.fingerprint
