"""Following a job over connections that break: each line once, and the job's own end, whatever the connection did."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from ray.job_submission import JobStatus

from cluster.jobs import follow
from cluster.jobs.follow import JobLog
from dataprep.runtime.command_line import UserError

RUNNING, DONE, FAILED = JobStatus.RUNNING, JobStatus.SUCCEEDED, JobStatus.FAILED


class Cluster:
    """A job's log, by connection, and what the cluster answers when asked for the job's status, one after the other."""

    def __init__(self, connections: Sequence[Sequence[str | Exception]], answers: Sequence[JobStatus | Exception]):
        self.connections, self.answers = list(connections), list(answers)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for piece in self.connections.pop(0):
            if isinstance(piece, Exception):
                raise piece
            if piece == "(silence)":
                await asyncio.sleep(3600)
            yield piece

    def get_job_status(self, name: str) -> JobStatus:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(follow, "_QUIET_SECONDS", 0.05)


def followed(cluster: Cluster, patience_seconds: float = 5) -> JobStatus:
    return JobLog(cluster, "job", patience_seconds).follow()


@pytest.mark.parametrize("end", [RuntimeError("WebSocket connection closed unexpectedly"), OSError("reset"), None])
def test_a_broken_connection_is_made_again_and_no_line_is_printed_twice(end: Exception | None, capsys):
    first = ["one\ntw", *([end] if end else [])]
    cluster = Cluster([first, ["one\n", "two\nthree\n"]], [RUNNING, DONE])

    assert followed(cluster) is DONE
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_the_rest_of_the_log_is_read_after_the_job_has_ended(capsys):
    cluster = Cluster([["one\n", OSError("reset")], ["one\ntwo\n"]], [FAILED])

    assert followed(cluster) is FAILED
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_log_that_cannot_be_had_any_more_does_not_hide_how_the_job_ended():
    assert followed(Cluster([[OSError("reset")]] * 9, [FAILED])) is FAILED


def test_a_connection_that_is_dead_without_being_closed_is_left_when_the_job_has_ended(capsys):
    cluster = Cluster([["one\n", "(silence)"], ["one\ntwo\n"]], [RUNNING, DONE])

    assert followed(cluster) is DONE
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_cluster_that_does_not_answer_for_a_while_is_waited_for_and_said_so_once(capsys):
    away = [OSError("refused"), OSError("refused"), RuntimeError("Request failed with status code 502")]
    cluster = Cluster([[OSError("refused")], ["one\n"]], [*away, RUNNING, DONE])

    assert followed(cluster) is DONE
    assert capsys.readouterr().err.count("the cluster does not answer; waiting") == 1


def test_patience_ends_and_says_how_to_follow_again():
    with pytest.raises(UserError, match=r"has not answered .* same --name"):
        followed(Cluster([[OSError("refused")]], [OSError("refused")]), patience_seconds=0.05)


def test_a_head_that_was_started_anew_knows_no_job_and_that_is_said():
    with pytest.raises(UserError, match="head was started anew"):
        followed(Cluster([[OSError("refused")]], [RuntimeError("status code 404: Job job does not exist")]))
