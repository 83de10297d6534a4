"""What clusters are named by: the nouns of the vocabulary, or a language model that is asked over HTTP as well."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from dxmc_core.settings import Settings


class _Naming(Settings):
    judging_nouns: bool = False
    """Also nouns for people that no picture shows (origin, belief, health, character), slurs and vulgar words. By
    default no cluster is called by them (docs/METHODS.md)."""


class NounNaming(_Naming):
    """Names by the nouns of the vocabulary and WordNet's concepts above them."""

    kind: Literal["nouns"] = "nouns"


class LlmNaming(_Naming):
    """Captions by a language model behind an OpenAI-compatible address; a cluster that gets none keeps its noun."""

    kind: Literal["llm"]
    endpoint: str
    """Address of the API, such as https://host/v1; `/chat/completions` is added. What is sent: the cluster's nouns, and
    its thumbnails if asked for."""
    model: str
    """Name of the model there."""
    api_key_env: str | None = None
    """The environment variable that holds the key, in the process that runs `dxmc`; by default no key is sent."""
    num_thumbnails: int = Field(0, ge=0, le=16)
    """Pictures of exemplars sent for each cluster; 0 sends nouns alone. The model must take pictures."""
    timeout_s: float = Field(60, gt=0)
    """Of one request."""
    attempts: int = Field(3, ge=1)
    """Requests for one cluster until it keeps its noun."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("expected an address that starts with http:// or https://")
        return value.rstrip("/")


NamingConfig = Annotated[NounNaming | LlmNaming, Field(discriminator="kind")]
