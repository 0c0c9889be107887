from raydd.cluster.environment import prepare_environment

prepare_environment("local")  # before any test imports ray

from local_ray import ray_here  # noqa: E402, F401
from machines import machine  # noqa: E402, F401
