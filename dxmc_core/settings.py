"""The base of every section of the configuration: frozen, and an unknown key is an error."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """One section of the configuration. Its fields' docstrings are the reference a user reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")
