"""The backend: what emb-provider asks for, in terms of what the encoder can do."""

from typing import ClassVar, Self

from attrs import frozen

from emb_provider_yours.encoder import Encoder
from provider.backends import BackendOptions, BackendTraits, ModelSpec, PaddedBackend, batch_tokens


@frozen
class YoursOptions:
    """Options of this backend, under `options:` in `litestar.yaml`. Every field has a default.

    Attributes:
        multiple: widths of batches are rounded up to a multiple of this, so that there are few shapes.
    """

    multiple: int = 8


class YoursBackend(PaddedBackend):
    """The encoder over a padded rectangle; pooling and head are `PaddedBackend`'s."""

    Options: ClassVar[type] = YoursOptions
    # Whether several threads may call `run` of one instance at the same time.
    concurrent: ClassVar[bool] = True
    # What `model.device` and `model.dtype` may say; `auto` is the first.
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load the weights in `spec.folder`; see `provider.backends.Backend.load`."""
        device, dtype = cls.choose(options)
        encoder = Encoder.load(spec, threads=options.threads)
        traits = BackendTraits(device, dtype, padding_is_free=False, batch_tokens=batch_tokens(device))
        return cls(spec, encoder.hidden_states, traits, multiple_of=options.own.multiple)
