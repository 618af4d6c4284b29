"""The prior of a corpus: ``linear_prior.safetensors`` beside its shards, with which runs with a prior begin."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from dataprep.corpus import Corpus
from dataprep.runtime.command_line import UserError, one_line
from pretrain.model.export_file import load_strictly
from pretrain.model.linear_prior import LinearPrior

PRIOR_FILE = "linear_prior.safetensors"


def write_prior(corpus: Corpus, prior: LinearPrior, facts: Mapping[str, str]) -> None:
    """Write the prior into the corpus's folder, in place of an earlier one. ``facts`` say how it was fitted."""
    origin = {"corpus_sha256": corpus.fingerprint, "vocabulary_sha256": corpus.vocabulary.fingerprint}
    tensors = {name: tensor.float().contiguous() for name, tensor in prior.state_dict().items()}
    corpus.folder.write_bytes(corpus.own_file(PRIOR_FILE), save_tensors(tensors, metadata={**facts, **origin}))


def corpus_prior(corpus: Corpus) -> LinearPrior:
    """Read the prior of a corpus. Raises UserError where it has none, or one that was fitted on other profiles."""
    name = corpus.own_file(PRIOR_FILE)
    address = f"{corpus.folder.uri}/{name}"
    if not corpus.folder.exists(name):
        raise UserError(
            f"{corpus.folder.uri} has no linear prior: run python -m pretrain prior --corpus {corpus.folder.uri}, "
            "or train with --model.prior none"
        )
    content = corpus.folder.read_bytes(name)
    try:
        tensors = load_tensors(content)
        rank = tensors["loadings"].shape[1]
    except (SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(f"{address} is damaged: {one_line(error)}") from None
    # the header, which has been read well: its length in eight bytes, then JSON
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    fitted_on = header.get("__metadata__", {}).get("corpus_sha256", "")
    if fitted_on != corpus.fingerprint:
        raise UserError(
            f"{address} was fitted on other profiles ({fitted_on[:12]}, the corpus is {corpus.fingerprint[:12]}): "
            f"run python -m pretrain prior --corpus {corpus.folder.uri} again"
        )
    prior = LinearPrior(corpus.genes, rank, "spread" in tensors)
    load_strictly(prior, tensors, address)
    return prior
