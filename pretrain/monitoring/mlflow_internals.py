"""What this project uses of MLflow beyond its documented interface, in one place.

MLflow logs the use of CPU, memory and GPU through ``SystemMetricsMonitor``. Its documented way to that,
``mlflow.start_run(log_system_metrics=True)``, makes the run the process's active one and ends the monitor for good at
the first request that the server does not answer. So the monitor is started directly, and again after an outage.
"""

from __future__ import annotations

from typing import Any


class SystemMetrics:
    """MLflow's watch over the machine, in a thread of MLflow's; see the module's docstring."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._monitor: Any = None

    def keep_running(self) -> bool:
        """Start the thread if there is none, or if it has ended. Returns whether it had ended."""
        if self._monitor is not None and self._monitor._process.is_alive():
            return False
        ended = self._monitor is not None
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # takes a second

        self._monitor = SystemMetricsMonitor(self._run_id, resume_logging=True)
        self._monitor.start()
        return ended

    def finish(self) -> None:
        """End the thread, after it has sent what it has."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
