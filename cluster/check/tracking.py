"""Whether every node can use the MLflow server, the same one as the driver."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cluster.check.contract import Check, Judgement, failed, not_applicable, ok
from cluster.config import CheckSettings
from dataprep.runtime.addresses import without_credentials
from dataprep.runtime.command_line import UserError

_VARIABLE = "MLFLOW_TRACKING_URI"
_CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
# A server that is away should cost seconds here, not the minutes that MLflow's client is patient for.
IMPATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def tracking_address(settings: CheckSettings) -> str | None:
    """The address of the server that this process would use, once it has answered a question that needs its password.

    None where none is named. Raises :class:`UserError` where it does not answer.
    """
    address = os.environ.get(_VARIABLE)
    if not address:
        return None
    os.environ.update(IMPATIENCE)
    # takes seconds, and only where there is a server
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    shown = without_credentials(address)
    try:
        MlflowClient(tracking_uri=address).search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise UserError(f"{shown}: {_reason(str(error))}") from None
    return shown


def judge_addresses(
    found: Mapping[str, str | None], driver: str | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    advice = f"give the processes that run `ray start` the same {_VARIABLE} everywhere"
    named = {address for address in found.values() if address is not None}
    if not named and driver is None:
        return dict.fromkeys(found, not_applicable(f"{_VARIABLE} is not set"))
    expected = driver or min(named)
    return {
        place: ok(f"{address} answers")
        if address == expected
        else failed(f"{address or f'{_VARIABLE} is not set'}, not {expected}", advice)
        for place, address in found.items()
    }


def _reason(message: str) -> str:
    """What an error of MLflow's client comes down to, without the urls and retries in it."""
    for code in ("401", "403"):
        if f"error code {code}" in message:
            return f"wants {_CREDENTIALS} (answers {code})"
    return "does not answer" if "Max retries exceeded" in message else " ".join(message.split())[:120]


MLFLOW = Check(
    "mlflow",
    tracking_address,
    judge_addresses,
    f"see whether the server runs and can be reached from there; it may want {_CREDENTIALS} beside {_VARIABLE}",
    compares_with_driver=True,
)
