"""The search for settings: a study starts training runs, and Optuna proposes what each of them tries."""
