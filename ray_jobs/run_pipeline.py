"""The whole pipeline as one job: `python -m ray_jobs.run_pipeline --config FILE`, the same as `dxmc run`."""

from ray_jobs.main import main_of

if __name__ == "__main__":
    main_of()
