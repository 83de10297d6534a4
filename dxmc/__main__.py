"""`python -m dxmc`, the same as `dxmc`."""

from ray_jobs.entry import main

if __name__ == "__main__":
    main()
