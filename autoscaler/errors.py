"""The provider's one error tree, and the map of Lambda's error codes to it.

    AutoscalerError                 exit code 1
    ├── UserError                   exit code 2: what the user can fix
    │   ├── ConfigError             a field of the YAML, a flag, a setting, a launch parameter
    │   ├── AuthError               no key, a key file others can read, a refused key
    │   └── AccountError            the account may not do this
    ├── RefusedError                exit code 3: refused for money or capacity
    │   ├── BudgetError             a cap of the YAML would be exceeded
    │   ├── CapacityError           Lambda has no capacity for it now
    │   └── QuotaError              the account's quota is used up
    ├── NotFoundError               the thing is not there (any more)
    ├── ConflictError               not in the thing's present state
    ├── UnavailableError            not now; asking again later may work
    │   ├── RateLimitedError        too many requests; this one was not executed
    │   └── ProtocolError           an answer that is not what Lambda documents
    ├── AmbiguousLaunchError        a launch whose outcome could not be learned in time
    ├── TeardownUnverifiedError     a teardown that could not verify that nothing bills
    ├── StateError                  the local state file cannot be used
    └── MonitorError                the head's autoscaler does not run

Every message is one line: what is wrong, where, and the fix where there is one. What came
from Lambda also carries `code` (Lambda's own, or None) and `status` (HTTP, or None).
`not_executed` is True only where the request surely changed nothing; a launch that failed
with anything else may have made a machine.
"""


class AutoscalerError(Exception):
    """The root: an error whose message is one line for the user, without a traceback.

    All arguments travel in `args`, so that an error survives pickling between processes.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        code: str | None = None,
        status: int | None = None,
        not_executed: bool = False,
    ) -> None:
        super().__init__(message, code, status, not_executed)
        self.message = message
        self.code = code
        self.status = status
        self.not_executed = not_executed

    def __str__(self) -> str:
        return self.message


class UserError(AutoscalerError):
    """A mistake in the configuration or the environment that the user can fix."""

    exit_code = 2


class ConfigError(UserError):
    """A field that cannot be used; messages of our own start with the field's name."""


class AuthError(UserError):
    """No usable API key, or Lambda refuses it."""


class AccountError(UserError):
    """The account is inactive, has no valid address, or may not do this."""


class RefusedError(AutoscalerError):
    """Refused for money or capacity."""

    exit_code = 3


class BudgetError(RefusedError):
    """A launch that would exceed a budget cap of the YAML, or whose price is unknown."""


class CapacityError(RefusedError):
    """No capacity. `next_try_s` is the epoch second of the next sensible try, or None."""

    next_try_s: float | None = None


class QuotaError(RefusedError):
    """The account's quota is used up."""


class NotFoundError(AutoscalerError):
    """The thing named is not there, or not any more."""


class ConflictError(AutoscalerError):
    """The thing exists, but is in no state for this."""


class UnavailableError(AutoscalerError):
    """The API could not be reached or failed; asking again later may work."""


class RateLimitedError(UnavailableError):
    """429: this request was not executed. `retry_after_s` is Lambda's Retry-After, or None;
    `next_try_s` the epoch second before which this machine sends no such request."""

    retry_after_s: float | None = None
    next_try_s: float | None = None


class ProtocolError(UnavailableError):
    """An answer that is not what Lambda documents: a redirect, HTML, a cut-off body."""


class AmbiguousLaunchError(AutoscalerError):
    """A launch of unknown outcome; a machine that appears late will be terminated."""


class TeardownUnverifiedError(AutoscalerError):
    """Instances may still run. The message names them; run the command again."""


class StateError(AutoscalerError):
    """The local state file cannot be read or written."""


class MonitorError(AutoscalerError):
    """The head's autoscaler does not run."""


_CLASS_OF_CODE: dict[str, type[AutoscalerError]] = {
    "global/invalid-api-key": AuthError,
    "global/account-inactive": AccountError,
    "global/invalid-address": AccountError,
    "global/forbidden": AccountError,
    "global/invalid-parameters": ConfigError,
    "global/duplicate": ConfigError,
    "global/object-does-not-exist": NotFoundError,
    "global/not-found": NotFoundError,
    "global/quota-exceeded": QuotaError,
    "global/conflict": ConflictError,
    "global/unknown": ConflictError,
    "global/internal-error": UnavailableError,
    "global/rate-limited": RateLimitedError,
    "filesystems/filesystem-in-use": ConflictError,
    "firewall-rulesets/firewall-ruleset-in-use": ConflictError,
    "instance-operations/launch/insufficient-capacity": CapacityError,
    "instance-operations/launch/file-system-in-wrong-region": ConfigError,
}

_CLASS_OF_STATUS: dict[int, type[AutoscalerError]] = {
    400: ConfigError,
    401: AuthError,
    403: AccountError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
}

UNDECIDED_STATUSES = frozenset({408, 409})
"""4xx statuses that do not prove that nothing happened: Lambda sends its internal error as 409."""


def from_answer(status: int, code: str | None, message: str, where: str) -> AutoscalerError:
    """The error for one answer of the API.

    `where` says which request it was ("POST /instance-operations/launch"). Lambda's message
    is shown, never interpreted: only `code` and `status` decide, as its documentation asks.
    """
    # Some callers have seen the quota code on 429; the status is the surer sign.
    if status == 429:
        cls: type[AutoscalerError] = RateLimitedError
    elif code is not None and code.startswith("provider/"):
        cls = UnavailableError
    elif code in _CLASS_OF_CODE:
        cls = _CLASS_OF_CODE[code]
    elif status >= 500:
        cls = UnavailableError
    else:
        cls = _CLASS_OF_STATUS.get(status, ProtocolError)
    text = f"{where}: {message or 'no message'} ({code or f'HTTP {status}'})"
    return cls(_one_line(text), code, status, _surely_not_executed(status, code))


def _surely_not_executed(status: int, code: str | None) -> bool:
    if status == 429:
        return True
    if code is None or code.startswith("provider/") or code not in _CLASS_OF_CODE:
        return False
    refused = 400 <= status < 500 and status not in UNDECIDED_STATUSES
    return refused and _CLASS_OF_CODE[code] not in (UnavailableError, ConflictError)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
