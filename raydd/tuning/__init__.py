"""The sweep's room: what plans, runs, shows and concludes a search. Ray and Optuna may be imported here.

`raydd.sweep` composes these modules; none of them knows how a distillation is made.
"""
