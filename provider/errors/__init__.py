"""The errors of the product: facts as attributes, and a message for programs that use the engine as a library.

They know no HTTP, no API and no command line: a dialect and the command line phrase the facts in their own words.

ProviderError
├── SettingsError               a setting is misspelt, mistyped or contradicts another
├── RequestError                what the caller sent cannot be answered; the caller can mend it
│   ├── InvalidRequest          how a request is written: a body's shape, a field's value, an option, a file
│   │   └── MissingModel        no model was named
│   ├── MalformedJSON           the body is no JSON document
│   ├── UnsupportedContentType  the body is declared as something other than JSON
│   ├── UnsupportedContentEncoding  the body is compressed in another way than is decoded
│   ├── BodyTooLarge            the body has more bytes than is allowed
│   ├── FileTooLarge            an uploaded file has more bytes than is allowed
│   ├── StorageFull             there is no room for the bytes of files
│   ├── ObjectNotFound          no file or job has that id, or it belongs to another key
│   ├── RangeNotSatisfiable     a range of a file begins behind its end
│   ├── JobsOff                 no folder is configured for files and jobs
│   ├── CallerTooSlow           the request did not arrive in time
│   ├── AuthenticationMissing   keys are required and none came
│   ├── HostNotAllowed          the request came to a name that the service does not have
│   ├── AuthenticationFailed    the key is not one of ours
│   ├── ScopeMissing            the key does not allow the task, or is no admin's
│   ├── ModelForbidden          the key does not allow the model
│   ├── LimitExceeded           the key has a quota, which is used up for now
│   │   ├── RequestRateExceeded requests of this minute
│   │   ├── TokenRateExceeded   tokens of this minute
│   │   └── QuotaExceeded       requests or tokens of this day
│   ├── ModelNotFound           no configured model or alias has that name
│   │   └── PromptNotFound      the model has no prompt of the name behind its own (`name:prompt`)
│   ├── OutputNotSupported      the model does not give that output
│   ├── SeveralLabels           the model gives a score for each of several labels, where one is wanted
│   ├── InvalidInput            one text cannot be tokenised, whatever its length
│   │   └── TooManyCharacters   it is so long, and of so few tokens, that it is not read to its end
│   ├── InputTooLong            one input has more tokens than the model takes
│   ├── TooManyTokens           the request as a whole has more tokens than one request may have
│   ├── TokenIdsNotAccepted     token ids came, and this service embeds texts only
│   └── InvalidOption           another field of a request has a value that this model does not take
│       ├── InvalidDimensions   the output does not have so many
│       ├── UnknownPrompt       the model has no prompt of that name
│       ├── UnknownInputType    the input type is no role and no prompt of the model
│       ├── MissingInputType    the model embeds queries and documents differently
│       └── PromptTooLong       the prompt has more characters than one may have
├── NotAvailable                nothing wrong with the request; the service cannot answer it now
│   ├── Overloaded              there is no room, or not in time
│   │   └── TooManyRequests     too many requests or bytes are under way
│   ├── ModelLoading            the model is on its way
│   ├── ModelFailed             the model could not be loaded; the log says why
│   ├── ModelStalled            a forward pass hangs
│   └── ShuttingDown            the process was asked to stop
├── CallerGone                  nobody waits for the answer any more
├── DeadlineExceeded            the caller's own deadline passed
├── EmbeddingFailed             the forward pass of these inputs failed
│   ├── NonFiniteVector         the model answered NaN or infinity
│   └── ZeroVector              the model answered zeros
├── ModelError                  a model's source or its files
│   ├── SourceNotFound          no such folder, package or repository
│   ├── SourceUnreachable       the hub did not answer and there is no copy here
│   ├── AccessDenied            the hub wants a token, or another one
│   └── InvalidModel            files missing, damaged or of an unsupported kind
├── BackendError                everything about finding and loading a backend
│   ├── UnknownBackend          no distribution registers that name, or two do
│   ├── BackendUnavailable      it cannot run here: device, library, dtype, option
│   └── ExportFailed            a model could not be written in another format
├── VerificationFailed          a model's vectors are not those of its reference
├── CannotListen                the port is taken, or the address is not ours
├── ServerFailed                a server that a command asks does not answer, or not with vectors
└── ContenderFailed             a contender of a benchmark is not there, or gave up

`public` says whether a caller over HTTP may read what an error says; of the others they only learn that something
failed, and the log has the rest.
"""

from provider.errors.access import (
    AuthenticationFailed,
    AuthenticationMissing,
    HostNotAllowed,
    LimitExceeded,
    ModelForbidden,
    QuotaExceeded,
    RequestRateExceeded,
    ScopeMissing,
    TokenRateExceeded,
)
from provider.errors.jobs import FileTooLarge, JobsOff, ObjectNotFound, RangeNotSatisfiable, StorageFull
from provider.errors.requests import (
    SHOWN_CHARACTERS,
    BodyTooLarge,
    CallerTooSlow,
    InputTooLong,
    InvalidDimensions,
    InvalidInput,
    InvalidOption,
    InvalidRequest,
    MalformedJSON,
    MissingInputType,
    MissingModel,
    ModelNotFound,
    OutputNotSupported,
    PromptNotFound,
    PromptTooLong,
    RequestError,
    SeveralLabels,
    TokenIdsNotAccepted,
    TooManyCharacters,
    TooManyTokens,
    UnknownInputType,
    UnknownPrompt,
    UnsupportedContentEncoding,
    UnsupportedContentType,
)
from provider.errors.service import (
    MOST_RETRY_SECONDS,
    AccessDenied,
    BackendError,
    BackendUnavailable,
    CallerGone,
    CannotListen,
    ContenderFailed,
    DeadlineExceeded,
    EmbeddingFailed,
    ExportFailed,
    InvalidModel,
    ModelError,
    ModelFailed,
    ModelLoading,
    ModelStalled,
    NonFiniteVector,
    NotAvailable,
    Overloaded,
    ProviderError,
    ServerFailed,
    SettingsError,
    ShuttingDown,
    SourceNotFound,
    SourceUnreachable,
    TooManyRequests,
    UnknownBackend,
    VerificationFailed,
    ZeroVector,
)

__all__ = [
    "MOST_RETRY_SECONDS",
    "SHOWN_CHARACTERS",
    "AccessDenied",
    "AuthenticationFailed",
    "AuthenticationMissing",
    "BackendError",
    "BackendUnavailable",
    "BodyTooLarge",
    "CallerGone",
    "CallerTooSlow",
    "CannotListen",
    "ContenderFailed",
    "DeadlineExceeded",
    "EmbeddingFailed",
    "ExportFailed",
    "FileTooLarge",
    "HostNotAllowed",
    "InputTooLong",
    "InvalidDimensions",
    "InvalidInput",
    "InvalidModel",
    "InvalidOption",
    "InvalidRequest",
    "JobsOff",
    "LimitExceeded",
    "MalformedJSON",
    "MissingInputType",
    "MissingModel",
    "ModelError",
    "ModelFailed",
    "ModelForbidden",
    "ModelLoading",
    "ModelNotFound",
    "ModelStalled",
    "NonFiniteVector",
    "NotAvailable",
    "ObjectNotFound",
    "OutputNotSupported",
    "Overloaded",
    "PromptNotFound",
    "PromptTooLong",
    "ProviderError",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RequestError",
    "RequestRateExceeded",
    "ScopeMissing",
    "ServerFailed",
    "SettingsError",
    "SeveralLabels",
    "ShuttingDown",
    "SourceNotFound",
    "SourceUnreachable",
    "StorageFull",
    "TokenIdsNotAccepted",
    "TokenRateExceeded",
    "TooManyCharacters",
    "TooManyRequests",
    "TooManyTokens",
    "UnknownBackend",
    "UnknownInputType",
    "UnknownPrompt",
    "UnsupportedContentEncoding",
    "UnsupportedContentType",
    "VerificationFailed",
    "ZeroVector",
]
