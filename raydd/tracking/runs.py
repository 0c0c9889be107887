"""Runs in MLflow, written by a thread of their own, so that nobody waits for a server.

Every call returns at once. While the server is away what is logged waits in memory and is sent when it answers again;
what a dead server never took is dropped when the tracking is closed, and that is said once. Nothing here raises.
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

from raydd.secrets_hidden import hidden, hide_password
from raydd.tracking.connection import Connection, connect, metric_name

WAITING_JOBS = 20_000  # calls kept while a server is away, some hours of a large sweep's
ATTEMPTS = 3  # for a call that fails although the server answers
GRACE_SECONDS = 10.0  # how long closing waits for a server that does not answer
PAUSE_SECONDS = 2.0  # between two looks at a server that does not answer

_PARAM_LENGTH, _BATCH_PARAMS, _BATCH_METRICS = 6000, 100, 1000  # MLflow's limits


class Tracking:
    """The connection to one MLflow experiment; a context that sends what is left when it is closed."""

    def __init__(
        self,
        address: str,
        artifacts: Path | None = None,
        say: Callable[[str], None] = print,
        grace: float = GRACE_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """Start the writing thread; `none` as the address tracks nothing.

        Args:
            address: MLflow's tracking address.
            artifacts: where artefacts go if `address` is a database; a server decides for itself.
            say: takes what the user should know of a server that fails.
            grace: seconds that `close` waits for a server that does not answer.
            pause: seconds between two attempts to reach it.
        """
        self.address, self._artifacts, self._say = address, artifacts, say
        self._grace, self._pause = grace, pause
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING_JOBS)
        self._closing, self._closed_at = threading.Event(), 0.0
        self._dead, self._lost = False, 0
        self._said: set[str] = set()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        if address != "none":
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and not self._jobs.empty():
            self._say("Sending to MLflow what was not sent yet; Ctrl-C once more leaves it.")
        self.close()

    def run(self, name: str, identity: tuple[str, str], parent: "Run | None" = None) -> "Run":
        """A run; the one whose tag `identity` (name, value) it is goes on if it is there, so none is doubled."""
        return Run(self, name, identity, parent)

    def submit(self, job: Callable[[], None]) -> None:
        """Have the thread do one thing with MLflow."""
        if self.address == "none":
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._lost += 1

    def ended(self, tag: str, like: str) -> set[str]:
        """The values of a tag, in SQL's LIKE, of runs that are over; for jobs, inside the thread."""
        found = self.connection().runs(f"tags.`{tag}` LIKE '{like}'")
        return {run.data.tags[tag] for run in found if run.info.status != "RUNNING"}

    def connection(self) -> Connection:
        """The open connection; for jobs, inside the thread."""
        if self._connection is None:
            self._connection = connect(self.address, self._artifacts)
        return self._connection

    def close(self) -> None:
        """Send what is left, for as long as the server answers, and end the thread."""
        if not self._thread.is_alive():
            return
        self._closed_at = time.monotonic()
        self._closing.set()
        self._jobs.join()  # a job may hand in others
        self._jobs.put(None)
        self._thread.join()
        if self._lost:
            self._say(f"{self._lost} entries for MLflow at {hide_password(self.address)} were lost.")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._dead or not self._sent(job):
                self._lost += 1
            self._jobs.task_done()

    def _sent(self, job: Callable[[], None]) -> bool:
        refusals, away = 0, False
        while True:
            try:
                job()
            except (
                Exception
            ) as error:  # whatever MLflow, its database or its artefact store raises must not end a sweep
                if self._answers():
                    refusals += 1
                    if refusals == ATTEMPTS:
                        self._say_once(f"MLflow refused an entry ({_first_line(error)}); the sweep goes on.")
                        return False
                elif self._closing.is_set() and time.monotonic() - self._closed_at > self._grace:
                    self._dead = True
                    return False
                elif not away:
                    at = hide_password(self.address)
                    self._say(f"MLflow at {at} does not answer ({_first_line(error)}); the sweep goes on.")
                    away = True
                time.sleep(self._pause)
            else:
                if away:
                    self._say(f"MLflow at {hide_password(self.address)} answers again.")
                return True

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._say(message)

    def _answers(self) -> bool:
        try:
            self.connection().client.search_experiments(max_results=1)
        except Exception:  # any failure at all means: not now
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
    _first_params: Mapping[str, str] = field(default_factory=dict, repr=False)  # of a run that goes on
    _known: dict[str, int] | None = field(default=None, repr=False)  # of a run that goes on: key to its last step

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings; the first value of each stays, since MLflow refuses another one."""
        pairs = [(metric_name(key), str(value)[:_PARAM_LENGTH]) for key, value in values.items()]

        def job() -> None:
            from mlflow.entities import Param

            run = self.id()
            new = [Param(key, value) for key, value in pairs if key not in self._first_params]
            for start in range(0, len(new), _BATCH_PARAMS):
                self._client().log_batch(run, params=new[start : start + _BATCH_PARAMS])

        self.tracking.submit(job)

    def curve(self, points: Sequence[Mapping[str, float]]) -> None:
        """Log metrics, each point with its `step`; steps that a run already has are passed over."""
        now = int(time.time() * 1000)  # fixed here, so that a repeated call writes the same rows again and not new ones
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
        """Set the description, Markdown, which may name the run by its id."""

        def job() -> None:
            self._client().set_tag(self.id(), "mlflow.note.content", text(self.id()))

        self.tracking.submit(job)

    def figure(self, name: str, draw: Callable[[], Figure]) -> None:
        """Log a picture, drawn in the thread."""
        self.tracking.submit(lambda: self._client().log_figure(self.id(), draw(), name))

    def files(self, folder: str, write: Callable[[Path], None]) -> None:
        """Log as artefacts under `folder` the files that `write` puts into the directory it is given."""

        def job() -> None:
            with tempfile.TemporaryDirectory() as directory:
                write(Path(directory))
                self._client().log_artifacts(self.id(), directory, folder)

        self.tracking.submit(job)

    def model(self, name: str, write: Callable[[Path], None]) -> None:
        """Log a model, one a run, of the folder that `write` makes for `mlflow.pyfunc.load_model`."""

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
        """Name a set of pairs as an input of this run.

        Args:
            name: what MLflow shows.
            digest: the fingerprint of its content.
            source: where it is.
            context: what the run does with it, as MLflow shows it: train, val, test or source.
            rows: gives the pairs in it, inside the thread.
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
        """MLflow's id of this run, which is found by its identity or created; for jobs, inside the thread."""
        if not self._id:
            client, experiment = self._client(), self.tracking.connection().experiment
            tag, value = self.identity
            found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
            if found:
                client.update_run(found[0].info.run_id, status="RUNNING")
                self._known, self._id = {}, found[0].info.run_id
                self._first_params = found[0].data.params
            else:
                tags = {tag: value, **({"mlflow.parentRunId": self.parent.id()} if self.parent else {})}
                self._id = client.create_run(experiment, run_name=self.name, tags=tags).info.run_id
        return self._id

    def _client(self) -> Any:
        return self.tracking.connection().client

    def _last_step(self, key: str) -> int:
        if self._known is None:
            return -1
        if key not in self._known:
            history = self._client().get_metric_history(self.id(), key)
            self._known[key] = max((point.step for point in history), default=-1)
        return self._known[key]


def _first_line(error: Exception) -> str:
    return (hidden(str(error)).splitlines() or [type(error).__name__])[0][:200]
