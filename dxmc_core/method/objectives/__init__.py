"""The gradient methods, a module each; their settings and their names are in `hyperparameters.py`."""
