"""Masks are a function of (seed, epoch, row_id) and of nothing else."""

import torch

from pretrain.model.masking import mask_of_profiles

ROWS = torch.tensor([0, 1, 7, 522_768, 2**40])


def test_a_profile_has_the_same_mask_in_any_batch_and_order():
    together = mask_of_profiles(ROWS, 500, 0.15, seed=3, epoch=2)
    backwards = mask_of_profiles(ROWS.flip(0), 500, 0.15, seed=3, epoch=2).flip(0)
    alone = torch.cat([mask_of_profiles(row.reshape(1), 500, 0.15, seed=3, epoch=2) for row in ROWS])
    assert torch.equal(together, backwards)
    assert torch.equal(together, alone)


def test_masks_do_not_depend_on_the_state_of_random_generators():
    torch.manual_seed(0)
    before = mask_of_profiles(ROWS, 100, 0.5, seed=0, epoch=0)
    torch.rand(1000)
    assert torch.equal(before, mask_of_profiles(ROWS, 100, 0.5, seed=0, epoch=0))


def test_seed_epoch_and_row_each_change_the_mask():
    base = mask_of_profiles(ROWS, 1000, 0.5, seed=0, epoch=0)
    for other in (
        mask_of_profiles(ROWS, 1000, 0.5, seed=1, epoch=0),
        mask_of_profiles(ROWS, 1000, 0.5, seed=0, epoch=1),
        mask_of_profiles(ROWS + 1, 1000, 0.5, seed=0, epoch=0),
    ):
        agreement = (base == other).float().mean(dim=1)
        assert ((agreement - 0.5).abs() < 0.08).all(), "independent masks agree on half the genes"


def test_the_share_of_masked_genes_is_the_rate():
    mask = mask_of_profiles(torch.arange(200), 20_024, 0.15, seed=0, epoch=0)
    # 4 million independent draws: the standard error is 0.00018
    assert abs(mask.float().mean().item() - 0.15) < 0.001
    # each gene is masked equally often: 200 draws each, standard deviation 0.025 around 0.15
    per_gene = mask.float().mean(dim=0)
    assert abs(per_gene.std().item() - 0.02525) < 0.001


def test_each_profile_draws_its_own_share_between_two_rates():
    rows = torch.arange(4000)
    shares = mask_of_profiles(rows, 4000, 0.05, seed=0, epoch=0, highest_rate=0.15).float().mean(dim=1)
    # even between 0.05 and 0.15, with a standard error of at most 0.0057 for each share
    assert abs(shares.mean().item() - 0.1) < 0.002
    assert abs(shares.std().item() - 0.1 / 12**0.5) < 0.002
    assert 0.03 < shares.min() < 0.06
    assert 0.14 < shares.max() < 0.17
    alone = mask_of_profiles(rows[77:78], 4000, 0.05, seed=0, epoch=0, highest_rate=0.15).float().mean(dim=1)
    assert alone == shares[77]
    again = mask_of_profiles(rows, 4000, 0.05, seed=0, epoch=1, highest_rate=0.15).float().mean(dim=1)
    assert abs(torch.corrcoef(torch.stack([shares, again]))[0, 1]) < 0.06


def test_a_range_of_one_rate_masks_what_the_rate_does():
    ranged = mask_of_profiles(ROWS, 500, 0.15, seed=3, epoch=2, highest_rate=0.15)
    assert torch.equal(ranged, mask_of_profiles(ROWS, 500, 0.15, seed=3, epoch=2))


def test_a_known_mask_stays_what_it_is():
    """Masks are part of what a run means: a change of the hash would change every run."""
    mask = mask_of_profiles(torch.tensor([42]), 40, 0.15, seed=7, epoch=3)
    assert mask[0].nonzero().flatten().tolist() == [2, 10, 35]
