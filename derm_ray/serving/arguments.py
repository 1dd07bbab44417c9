"""What an application serves, and how."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ServeArguments(BaseModel):
    """What to serve, and how: ``args`` of an application in a Serve config file.

    Attributes:
        model: URI of a bundle.
        engine: name.
        gpu: one GPU per replica.
        cpus: of each replica; its threads.
        replicas: of the model.
        max_replicas: how many there may be under load; ``None`` keeps ``replicas``.
        tokens: URI of a token file; ``None`` takes the variable ``DERM_RAY_TOKENS``.
        insecure: accept requests without tokens.
        rate: requests a second that one token may keep up at each replica, and five times as many at once; ``None``
            sets no limit.
        revision: another value rolls out what lies at the same URIs; ``derm-ray serve`` fills in
            :func:`derm_ray.serving.deployment.revision`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    engine: str = "auto"
    gpu: bool = False
    cpus: int = Field(1, ge=1)
    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1)
    tokens: str | None = None
    insecure: bool = False
    rate: float | None = Field(None, gt=0)
    revision: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> "ServeArguments":
        if self.most < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}")
        return self

    @property
    def most(self) -> int:
        """The most replicas there may be."""
        return self.replicas if self.max_replicas is None else self.max_replicas
