"""The jobs: the only code that imports Ray. One module a stage, each run by `ray job submit` or by `dxmc run`."""
