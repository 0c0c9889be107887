"""The hyperparameter sweep: modules that plan, run, show and conclude a search. Ray and Optuna may be imported here.

`raydd.sweep` uses these modules. None of them depends on how a distillation works.
"""
