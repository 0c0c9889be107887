"""Writes runs to MLflow from a separate thread, so that a sweep never waits for a server.

Every call returns at once. While the server does not answer, entries wait in memory; they are sent when it answers
again. If it still does not answer when the tracking is closed, the remaining entries are dropped, with one message to
the user. Nothing here raises an error.
"""

import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from matplotlib.figure import Figure

from raydd.secrets_hidden import hide_password
from raydd.tracking.connection import Connection, connect, first_line, metric_name

WAITING_JOBS = 20_000  # most calls that wait while a server does not answer; enough for some hours of a large sweep
ATTEMPTS = 3  # tries of a call that fails although the server answers
GRACE_SECONDS = 10.0  # how long `close` waits for a server that does not answer
PAUSE_SECONDS = 2.0  # pause between two attempts to reach a server

_PARAM_LENGTH, _BATCH_PARAMS, _BATCH_METRICS = 6000, 100, 1000  # MLflow's limits


class Tracking:
    """Writes to one MLflow experiment. A context manager that sends the remaining entries when it is closed."""

    def __init__(
        self,
        address: str,
        artifacts: Path | None = None,
        say: Callable[[str], None] = print,
        grace: float = GRACE_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """Start the writing thread, unless the address is `none`, which tracks nothing.

        Args:
            address: MLflow's tracking address.
            artifacts: folder for artefacts if `address` is a database; a server has its own.
            say: shows the user a message about a server that fails.
            grace: seconds that `close` waits for a server that does not answer.
            pause: seconds between two attempts to reach it.
        """
        self.address, self._artifacts, self._say = address, artifacts, say
        self._grace, self._pause = grace, pause
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING_JOBS)
        self._closing, self._closed_at = threading.Event(), 0.0
        self._gave_up, self._lost_count = False, 0
        self._shown_messages: set[str] = set()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run_jobs, name="mlflow", daemon=True)
        if address != "none":
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and not self._jobs.empty():
            self._say("Sending the remaining entries to MLflow. Press Ctrl-C again to drop them.")
        self.close()

    def run(self, name: str, identity: tuple[str, str], parent: "Run | None" = None) -> "Run":
        """Return a run that is identified by a tag (name, value); if MLflow has such a run, it is continued."""
        return Run(self, name, identity, parent)

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job for the writing thread."""
        if self.address == "none":
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._lost_count += 1

    def ended(self, tag: str, pattern: str) -> set[str]:
        """Return the values of a tag of runs that have ended. Only for jobs, inside the thread.

        Args:
            tag: name of the tag.
            pattern: pattern of its values, as in SQL's LIKE.
        """
        runs = self.connection().runs(f"tags.`{tag}` LIKE '{pattern}'")
        return {run.data.tags[tag] for run in runs if run.info.status != "RUNNING"}

    def connection(self) -> Connection:
        """Return the open connection. Only for jobs, inside the thread."""
        if self._connection is None:
            self._connection = connect(self.address, self._artifacts)
        return self._connection

    def close(self) -> None:
        """Send the remaining entries while the server answers, then end the thread."""
        if not self._thread.is_alive():
            return
        self._closed_at = time.monotonic()
        self._closing.set()
        self._jobs.join()  # wait first, since a job may submit other jobs
        self._jobs.put(None)
        self._thread.join()
        if self._lost_count:
            self._say(f"{self._lost_count} entries for MLflow at {hide_password(self.address)} were lost.")

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._gave_up or not self._send(job):
                self._lost_count += 1
            self._jobs.task_done()

    def _send(self, job: Callable[[], None]) -> bool:
        refusals, unreachable = 0, False
        while True:
            try:
                job()
            except Exception as error:  # no error of MLflow, its database or its artefact store may end a sweep
                if self._server_answers():
                    refusals += 1
                    if refusals == ATTEMPTS:
                        self._say_once(f"MLflow refused an entry ({first_line(error)}); the sweep goes on.")
                        return False
                elif self._closing.is_set() and time.monotonic() - self._closed_at > self._grace:
                    self._gave_up = True
                    return False
                elif not unreachable:
                    address = hide_password(self.address)
                    self._say(f"MLflow at {address} does not answer ({first_line(error)}); the sweep goes on.")
                    unreachable = True
                time.sleep(self._pause)
            else:
                if unreachable:
                    self._say(f"MLflow at {hide_password(self.address)} answers again.")
                return True

    def _say_once(self, message: str) -> None:
        if message not in self._shown_messages:
            self._shown_messages.add(message)
            self._say(message)

    def _server_answers(self) -> bool:
        try:
            self.connection().client.search_experiments(max_results=1)
        except Exception:  # any failure means that the server does not answer now
            return False
        return True


@dataclass
class Run:
    """One MLflow run, found or created when the first thing is logged to it."""

    tracking: Tracking
    name: str
    identity: tuple[str, str]
    parent: "Run | None" = None
    _id: str = field(default="", repr=False)
    _first_params: Mapping[str, str] = field(default_factory=dict, repr=False)  # of a run that is continued
    _last_steps: dict[str, int] | None = field(default=None, repr=False)  # last step by key, of a run that is continued

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings. A setting that the run already has keeps its first value, since MLflow refuses to change it."""
        named_values = [(metric_name(key), str(value)[:_PARAM_LENGTH]) for key, value in values.items()]

        def job() -> None:
            from mlflow.entities import Param

            run = self.id()
            new_params = [Param(key, value) for key, value in named_values if key not in self._first_params]
            for start in range(0, len(new_params), _BATCH_PARAMS):
                self._client().log_batch(run, params=new_params[start : start + _BATCH_PARAMS])

        self.tracking.submit(job)

    def curve(self, points: Sequence[Mapping[str, float]]) -> None:
        """Log metrics, each point with its `step`; steps that the run already has are skipped."""
        now = int(time.time() * 1000)  # fixed here, so that a retry writes the same rows again instead of new ones
        rows = [
            (metric_name(key), float(value), now, int(point["step"]))
            for point in points
            for key, value in point.items()
            if key != "step"
        ]

        def job() -> None:
            from mlflow.entities import Metric

            run = self.id()
            metrics = [Metric(*row) for row in rows if row[3] > self._last_step(row[0])]
            for start in range(0, len(metrics), _BATCH_METRICS):
                self._client().log_batch(run, metrics=metrics[start : start + _BATCH_METRICS])

        self.tracking.submit(job)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""

        def job() -> None:
            for key, value in values.items():
                self._client().set_tag(self.id(), key, value)

        self.tracking.submit(job)

    def describe(self, text: Callable[[str], str]) -> None:
        """Set the run's description in Markdown; `text` gets the run's id and returns the description."""

        def job() -> None:
            self._client().set_tag(self.id(), "mlflow.note.content", text(self.id()))

        self.tracking.submit(job)

    def figure(self, name: str, draw: Callable[[], Figure]) -> None:
        """Log a figure, which `draw` draws inside the thread."""
        self.tracking.submit(lambda: self._client().log_figure(self.id(), draw(), name))

    def files(self, folder: str, write: Callable[[Path], None]) -> None:
        """Log files as artefacts under `folder`; `write` writes them into the directory that it gets."""

        def job() -> None:
            with tempfile.TemporaryDirectory() as directory:
                write(Path(directory))
                self._client().log_artifacts(self.id(), directory, folder)

        self.tracking.submit(job)

    def model(self, name: str, write: Callable[[Path], None]) -> None:
        """Log a model, at most one for each run; `write` makes its folder, which `mlflow.pyfunc.load_model` reads."""

        def job() -> None:
            from mlflow.entities import LoggedModelOutput, LoggedModelStatus

            client, run = self._client(), self.id()
            if client.get_run(run).outputs.model_outputs:
                return
            with tempfile.TemporaryDirectory() as directory:
                folder = Path(directory) / name
                write(folder)
                model = client.create_logged_model(self.tracking.connection().experiment, name, run)
                client.log_model_artifacts(model.model_id, str(folder))
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
            client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])

        self.tracking.submit(job)

    def dataset(self, name: str, digest: str, source: str, context: str, rows: Callable[[], int]) -> None:
        """Log a set of pairs as an input of this run.

        Args:
            name: name that MLflow shows.
            digest: fingerprint of its content.
            source: where the data are.
            context: how the run uses the data, as MLflow shows it: train, val, test or source.
            rows: gives the number of pairs; called inside the thread.
        """

        def job() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            profile = json.dumps({"num_rows": rows()})
            data = Dataset(name, digest, source_type="raydd", source=source, profile=profile)
            self._client().log_inputs(self.id(), [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

        self.tracking.submit(job)

    def end(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self.tracking.submit(lambda: self._client().set_terminated(self.id(), status))

    def id(self) -> str:
        """Return MLflow's id of this run, found by its identity or newly created. Only for jobs, inside the thread."""
        if not self._id:
            client, experiment = self._client(), self.tracking.connection().experiment
            tag, value = self.identity
            existing_runs = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
            if existing_runs:
                client.update_run(existing_runs[0].info.run_id, status="RUNNING")
                self._last_steps, self._id = {}, existing_runs[0].info.run_id
                self._first_params = existing_runs[0].data.params
            else:
                tags = {tag: value, **({"mlflow.parentRunId": self.parent.id()} if self.parent else {})}
                self._id = client.create_run(experiment, run_name=self.name, tags=tags).info.run_id
        return self._id

    def _client(self) -> Any:
        return self.tracking.connection().client

    def _last_step(self, key: str) -> int:
        if self._last_steps is None:
            return -1
        if key not in self._last_steps:
            history = self._client().get_metric_history(self.id(), key)
            self._last_steps[key] = max((point.step for point in history), default=-1)
        return self._last_steps[key]
