"""An edit: one correction by a person, with its author, date and reason. This module is the format's reference.

In a file an edit is a mapping with `id`, `author`, `at`, optionally `reason`, and one action under its name:

    {id: 5f0c2b1a, author: ann, at: 2026-11-30T12:00:00Z, rename: {cluster: {id: 3, images: [a.jpg]}, name: red cars}}

Images are named by image_id. A cluster is named by the id it had, and by a few images nearest to its centre, so that an
edit outlives ids: it means the cluster that holds most of these images now. A person may write the id alone; the images
are filled in when the edit is first applied.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

MAX_NAME_LENGTH = 200
MAX_REFERENCE_IMAGES = 20
MAX_CLUSTER_ID = 2**31 - 1
_MAX_PARTS = 100


def require_name(text: str) -> str:
    """A name that a person gives, without blanks around it.

    Raises:
        ValueError: it is empty, too long, or holds control characters.
    """
    name = text.strip()
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise ValueError(f"expected a name of 1 to {MAX_NAME_LENGTH} printable characters, found {text!r}")
    return name


def _in_utc(at: datetime) -> datetime:
    at = at.replace(microsecond=0)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _all_different(images: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(images)) != len(images):
        twice = next(image for image in images if images.count(image) > 1)
        raise ValueError(f"expected each image once, found {twice!r} twice")
    return images


Name = Annotated[str, AfterValidator(require_name)]
ImageId = Annotated[str, Field(min_length=1, max_length=8192)]
ImageIds = Annotated[tuple[ImageId, ...], Field(min_length=1), AfterValidator(_all_different)]
ImageGroups = Annotated[tuple[ImageIds, ...], Field(min_length=2, max_length=_MAX_PARTS)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClusterRef(_Model):
    """A cluster as an edit names it."""

    id: int = Field(ge=0, le=MAX_CLUSTER_ID)
    """The id it had when the edit was made; it counts alone where `images` are not given."""
    images: Annotated[tuple[ImageId, ...], Field(max_length=MAX_REFERENCE_IMAGES)] = ()
    """A few of its images, nearest to its centre first; the cluster that holds most of them is meant."""


def _as_reference(value: Any) -> Any:
    return {"id": value} if isinstance(value, int | str) else value


#: A bare id is a reference too.
Cluster = Annotated[ClusterRef, BeforeValidator(_as_reference)]


class Rename(_Model):
    """Gives a cluster a name."""

    kind: Literal["rename"] = "rename"
    cluster: Cluster
    name: Name


class Merge(_Model):
    """Makes one cluster of several; it has the id of the first."""

    kind: Literal["merge"] = "merge"
    clusters: tuple[Cluster, ...] = Field(min_length=2)
    name: Name | None = None

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        if len({(ref.id, ref.images) for ref in self.clusters}) != len(self.clusters):
            raise ValueError("expected different clusters, found one twice")
        return self


class Split(_Model):
    """Cuts a cluster into several: so many, or one for each group of examples, of which the first keeps its id."""

    kind: Literal["split"] = "split"
    cluster: Cluster
    into: int | None = Field(None, ge=2, le=_MAX_PARTS)
    """How many; replaced by examples of each, the largest first, when the edit is first applied."""
    examples: ImageGroups | None = None
    """A few images of each part; every other image goes to the part whose examples it is nearest to."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.into is None) == (self.examples is None):
            raise ValueError("expected either `into` or `examples`")
        if self.examples is not None:
            _all_different(tuple(image for part in self.examples for image in part))
        return self


class Move(_Model):
    """Puts images into a cluster."""

    kind: Literal["move"] = "move"
    images: ImageIds
    to: Cluster


class Together(_Model):
    """Says that images belong into one cluster, whichever it is."""

    kind: Literal["together"] = "together"
    images: Annotated[ImageIds, Field(min_length=2)]


class Apart(_Model):
    """Says that images belong into different clusters: none of `images` with another, or no two of two `groups`."""

    kind: Literal["apart"] = "apart"
    images: Annotated[ImageIds, Field(min_length=2, max_length=_MAX_PARTS)] | None = None
    groups: ImageGroups | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.images is None) == (self.groups is None):
            raise ValueError("expected either `images` or `groups`")
        if self.groups is not None:
            _all_different(tuple(image for group in self.groups for image in group))
        return self

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """Groups of which no two share a cluster."""
        return tuple((image,) for image in self.images) if self.images is not None else self.groups or ()


class Examples(_Model):
    """Says of what class images are: that of a name, for which a cluster is made if there is none, or a cluster's."""

    kind: Literal["examples"] = "examples"
    of: Name | Cluster
    images: ImageIds

    @model_validator(mode="before")
    @classmethod
    def _name_or_cluster(cls, values: Any) -> Any:
        # A bare number would be taken for a name where YAML's numbers arrive as text.
        if isinstance(values, dict) and str(values.get("of", "")).strip().isdecimal():
            return {**values, "of": {"id": values["of"]}}
        return values


class Hide(_Model):
    """Leaves a cluster out of the report; its images keep their assignments."""

    kind: Literal["hide"] = "hide"
    cluster: Cluster


class Pin(_Model):
    """Keeps a cluster as it is: its images change by edits alone, and no new one comes in."""

    kind: Literal["pin"] = "pin"
    cluster: Cluster
    images: ImageIds | None = None
    """All images that it holds; filled in when the edit is first applied."""


Action = Rename | Merge | Split | Move | Together | Apart | Examples | Hide | Pin
#: The names of actions, in a file and on the command line.
KINDS = tuple(str(action.model_fields["kind"].default) for action in get_args(Action))
_HEAD = ("id", "author", "at", "reason")


class Edit(_Model):
    """One correction."""

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    """By which it is undone; made from its content where a person left it out."""
    author: Name
    at: Annotated[datetime, AfterValidator(_in_utc)]
    reason: Name | None = None
    action: Annotated[Action, Field(discriminator="kind")]

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, values: Any) -> Any:
        """The action, which a file has under its name, as `action`."""
        if not isinstance(values, dict) or "action" in values:
            return values
        unknown = [str(key) for key in values if key not in _HEAD and key not in KINDS]
        if unknown:
            raise ValueError(f"expected one of {', '.join(KINDS)}, found {unknown[0]!r}")
        kinds = [kind for kind in KINDS if kind in values]
        if len(kinds) != 1:
            raise ValueError(f"expected one action of {', '.join(KINDS)}, found {' and '.join(kinds) or 'none'}")
        (kind,) = kinds
        content = values[kind]
        if not isinstance(content, dict):
            raise ValueError(f"{kind}: expected a mapping, found {str(content)[:50]!r}")
        head = {key: values[key] for key in _HEAD if key in values}
        if "id" not in head:
            text = json.dumps(values, sort_keys=True, default=str)
            head["id"] = hashlib.sha256(text.encode()).hexdigest()[:8]
        return {**head, "action": {**content, "kind": kind}}

    @model_serializer
    def _to_file(self) -> dict[str, Any]:
        """As it stands in a file."""
        found: dict[str, Any] = {"id": self.id, "author": self.author, "at": self.at.isoformat().replace("+00:00", "Z")}
        if self.reason is not None:
            found["reason"] = self.reason
        content = self.action.model_dump(mode="json", exclude_none=True, exclude={"kind"})
        return {**found, self.action.kind: content}

    @property
    def kind(self) -> str:
        return self.action.kind

    @property
    def is_learned(self) -> bool:
        """Whether a full clustering learns from it: names and marks say nothing of what belongs together."""
        return not isinstance(self.action, Rename | Hide)

    @property
    def clusters(self) -> tuple[ClusterRef, ...]:
        """The clusters that it names."""
        action = self.action
        if isinstance(action, Merge):
            return action.clusters
        if isinstance(action, Move):
            return (action.to,)
        if isinstance(action, Examples):
            return (action.of,) if isinstance(action.of, ClusterRef) else ()
        return () if isinstance(action, Together | Apart) else (action.cluster,)

    def with_references(self, changed: Callable[[ClusterRef], ClusterRef]) -> "Edit":
        """The edit with other references to the same clusters."""
        action = self.action
        changes: dict[str, Any] = {}
        if isinstance(action, Merge):
            changes["clusters"] = tuple(map(changed, action.clusters))
        elif isinstance(action, Move):
            changes["to"] = changed(action.to)
        elif isinstance(action, Examples):
            changes["of"] = changed(action.of) if isinstance(action.of, ClusterRef) else action.of
        elif not isinstance(action, Together | Apart):
            changes["cluster"] = changed(action.cluster)
        return self.model_copy(update={"action": action.model_copy(update=changes)})

    @property
    def essence(self) -> dict[str, Any]:
        """What it says, without what is filled in when it is first applied; of JSON types."""
        found = self.model_dump()
        content = self.action.model_dump(mode="json", exclude={"kind"})
        for key in ("cluster", "to", "of"):
            if isinstance(content.get(key), dict):
                content[key] = content[key]["id"]
        if isinstance(self.action, Merge):
            content["clusters"] = [ref.id for ref in self.action.clusters]
        elif isinstance(self.action, Split):
            content = {"cluster": content["cluster"], "into": self.action.into or len(self.action.examples or ())}
        elif isinstance(self.action, Pin):
            del content["images"]
        return {"id": found["id"], self.kind: content}

    @property
    def images(self) -> tuple[str, ...]:
        """The images that it names itself, those of references aside."""
        action = self.action
        if isinstance(action, Split):
            return tuple(image for part in action.examples or () for image in part)
        if isinstance(action, Apart):
            return tuple(image for part in action.parts for image in part)
        return getattr(action, "images", None) or ()

    def summary(self) -> str:
        """What it does, in a few words."""
        action = self.action
        match action:
            case Rename():
                return f"rename {action.cluster.id} {action.name!r}"
            case Merge():
                name = "" if action.name is None else f" as {action.name!r}"
                return f"merge {' '.join(str(ref.id) for ref in action.clusters)}{name}"
            case Split():
                return f"split {action.cluster.id} into {action.into or len(action.examples or ())}"
            case Move():
                return f"move {_counted(len(action.images))} to {action.to.id}"
            case Together():
                return f"together {_counted(len(action.images))}"
            case Apart():
                return f"apart {_counted(len(self.images))}"
            case Examples():
                of = action.of.id if isinstance(action.of, ClusterRef) else repr(action.of)
                return f"examples of {of}, {_counted(len(action.images))}"
            case _:
                return f"{action.kind} {action.cluster.id}"


def _counted(num_images: int) -> str:
    return f"{num_images:,} {'image' if num_images == 1 else 'images'}"
