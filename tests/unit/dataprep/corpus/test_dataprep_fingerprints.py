"""Profiles are known again by fingerprints, exactly or nearly, and unrelated ones are not taken for each other."""

import numpy as np
import pyarrow as pa
import pytest
from made_corpora import make_corpus, make_vocabulary

from dataprep.corpus.fingerprints import BANDS, EQUAL_BANDS, Fingerprinter, near_pairs
from dataprep.corpus.subjects import subjects_of
from dataprep.corpus.train_profiles import TrainProfiles, readable_train_profiles
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError

GENES = 1500


@pytest.fixture(scope="module")
def fingerprinter():
    return Fingerprinter(make_vocabulary(GENES))


def cohort(rows, seed=0):
    """float16 rows x GENES that agree as profiles of one tissue do: r is about 0.9."""
    random = np.random.default_rng(seed)
    mean = np.random.default_rng(7).gamma(2.0, 1.5, GENES)
    return np.maximum(mean + random.normal(0, 0.7, (rows, GENES)), 0).astype(np.float16)


def with_noise(expression, correlation, seed=0):
    """The same profiles with noise that leaves this correlation."""
    values = expression.astype(np.float32)
    sd = values.std(axis=1, keepdims=True) * np.sqrt(1 / correlation**2 - 1)
    return (values + np.random.default_rng(seed).normal(0, 1, values.shape) * sd).astype(np.float16)


def test_the_same_values_have_the_same_digest_and_others_another(fingerprinter):
    expression = cohort(3)
    expression[0, 0], expression[1, 0] = -0.0, np.nan
    again = expression.copy()
    again[0, 0] = 0.0
    again[2, 5] = np.nextafter(again[2, 5], np.float16(9), dtype=np.float16)
    one, other = fingerprinter.of(expression).content, fingerprinter.of(again).content
    assert (one == other).all(axis=1).tolist() == [True, True, False]


def test_the_order_of_genes_does_not_matter(fingerprinter):
    backwards = GeneVocabulary(*(part[::-1] for part in vars(make_vocabulary(GENES)).values()))
    expression = cohort(20)
    one, other = fingerprinter.of(expression), Fingerprinter(backwards).of(expression[:, ::-1])
    assert (one.content == other.content).all()
    assert (one.sketch == other.sketch).mean() > 0.98


@pytest.mark.parametrize(("correlation", "low", "high"), [(0.9995, 0.98, 1.0), (0.999, 0.93, 1.0), (0.95, 0.0, 0.005)])
def test_profiles_nearly_the_same_are_found_and_others_are_not(fingerprinter, correlation, low, high):
    expression = cohort(400)
    one = fingerprinter.of(expression).sketch
    other = fingerprinter.of(with_noise(expression, correlation)).sketch
    mine, theirs = near_pairs(one, other)
    assert low <= np.mean(np.isin(np.arange(400), mine[mine == theirs])) <= high
    assert not (mine != theirs).any()


def test_pairs_are_all_those_with_enough_equal_bands():
    random = np.random.default_rng(0)
    one, other = (random.integers(0, 3, (rows, BANDS)).astype(np.uint64) for rows in (40, 25))
    equal = (one[:, None] == other[None]).sum(axis=2)
    assert [*zip(*near_pairs(one, other), strict=True)] == [*zip(*np.nonzero(equal >= EQUAL_BANDS), strict=True)]
    assert len(near_pairs(one[:0], other)[0]) == len(near_pairs(one, other[:0])[0]) == 0


def test_the_table_comes_back_as_it_was_written_and_holds_no_expression(tmp_path):
    corpus = make_corpus(str(tmp_path), {"train": 20, "validation": 5})
    profiles = TrainProfiles.of_corpus(corpus)
    content = profiles.to_bytes()
    again = TrainProfiles.from_bytes(content, "x")
    assert (again.corpus, again.sample_ids[-1], len(again.sample_ids)) == (corpus.fingerprint, "S19", 20)
    assert (again.fingerprints.sketch == profiles.fingerprints.sketch).all()
    assert (again.fingerprints.content == profiles.fingerprints.content).all()
    with pytest.raises(UserError, match="x is damaged"):
        TrainProfiles.from_bytes(content[:-9], "x")


def test_a_split_that_cannot_be_read_costs_a_line(tmp_path):
    corpus = make_corpus(str(tmp_path))
    next(tmp_path.glob("split=train/*")).write_bytes(b"damaged")
    said = []
    assert readable_train_profiles(corpus, said.append) is None
    assert "no leak audit can be made" in said[0]


def test_whose_sample_it_is():
    samples = pa.table(
        {
            "sample_id": ["TCGA-A2-A0YF-01A-11R", "TCGA.A2.A0YF.11B", "GTEX-1117F-0226", "x/7", "y/7", "z"],
            "study_id": ["a", "b", "c", "x", "y", "z"],
            "donorid:ch1": ["other", None, None, "7", "7", ""],
        }
    )
    assert subjects_of(samples) == ["TCGA-A2-A0YF", "TCGA-A2-A0YF", "GTEX-1117F", "x/7", "y/7", None]
