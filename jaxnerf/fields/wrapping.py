"""The base class of fields that wrap another field and change only its density."""

from typing import Any

from jaxtyping import PRNGKeyArray

from jaxnerf.fields import Params


class Wrapping:
    """Forwards everything but `density` to an inner field. Base class of `jaxnerf.fields.Field`s.

    Attributes:
      field: the inner field; its parameters are those of the wrapping field.
    """

    field: Any

    def init(self, key: PRNGKeyArray) -> Params:
        """The inner field's parameters."""
        return self.field.init(key)

    def colour(self, params: Params, features: Any, view_directions: Any) -> Any:
        """The inner field's; see `jaxnerf.fields.Field`."""
        return self.field.colour(params, features, view_directions)

    @property
    def shading(self) -> str:
        """The inner field's: "ray" or "sample"."""
        return getattr(self.field, "shading", "sample")

    @property
    def extras(self) -> Any:
        """The inner field's, if it has any."""
        return getattr(self.field, "extras", None)
