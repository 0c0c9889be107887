"""Where results are kept, and what computes them."""

from dataclasses import dataclass
from typing import Annotated

from raydd.ranges import Between, RateFromZero, check_device, check_numbers


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """Where results are stored and where to compute. Records do not depend on these settings. But a GPU draws other
    dropout masks than a CPU, and sums in another order, so its experts and students have other numbers."""

    home: str = ""
    """Folder for everything that raydd writes (empty: $RAYDD_HOME, else ~/.raydd)."""
    store: str = ""
    """Store of all records: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX (empty: $RAYDD_STORE, else the folder
    store in `place.home`)."""
    cache_gb: RateFromZero = 50.0
    """Maximum size of this machine's copies of a bucket's files, in GB."""
    mlflow: str = ""
    """MLflow's tracking address (empty: $MLFLOW_TRACKING_URI, else the SQLite file mlflow.db in `place.home`). `none`:
    no tracking."""
    study: str = ""
    """Database of the Optuna study, an SQLAlchemy address (empty: $RAYDD_STUDY, else the SQLite file studies.db in
    `place.home`)."""
    ray: str = "local"
    """Ray cluster: local starts one here, auto joins the one running here, or an address."""
    device: str = "auto"
    """Torch device: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    threads: Annotated[int, Between(0, 4_096)] = 0
    """CPU threads per process (0: all cores)."""
    encode_batch: Annotated[int, Between(1, 65_536)] = 64
    """Images per batch on a GPU, for encoding and for pixel gradients. A CPU always uses small batches."""

    def __post_init__(self) -> None:
        check_numbers("place", self)
        check_device(self.device)
