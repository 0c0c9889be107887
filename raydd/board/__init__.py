"""The board: what a run or a sweep shows, on MLflow and as figures. Ray and Optuna are not imported here."""
