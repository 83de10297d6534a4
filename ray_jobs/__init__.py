"""The jobs: the only code that imports Ray. One module per stage, each run by `ray job submit` or by `dxmc run`."""
