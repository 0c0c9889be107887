from raydd.tuning.environment import prepare_environment

prepare_environment("local")  # before any test imports ray

from machines import machine  # noqa: E402, F401
